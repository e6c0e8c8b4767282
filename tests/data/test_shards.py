"""Megatron's layout byte by byte, the sidecar, and shards that are damaged or of another tokenizer."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from weft.core.errors import DataError, ResourceError
from weft.data import shards
from weft.data.indexed import ShardReader, token_type, write_index
from weft.data.shards import open_split
from weft.tokenizer import Tokenizer, train
from weft.tokenizer.fast import FastEncoder, ParityError


@pytest.mark.parametrize(("dtype", "code"), [(np.uint16, 8), (np.int32, 4)])
def test_index_is_megatrons_byte_by_byte(tmp_path: Path, dtype: type, code: int) -> None:
    documents = [[1, 2, 3], [4], [5, 6]]
    (tmp_path / "x.bin").write_bytes(np.array([t for d in documents for t in d], dtype).tobytes())
    write_index(tmp_path / "x.idx", np.array([3, 1, 2]), dtype)
    width = np.dtype(dtype).itemsize
    expected = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code)
    expected += struct.pack("<QQ", 3, 4)
    expected += struct.pack("<3i", 3, 1, 2) + struct.pack("<3q", 0, 3 * width, 4 * width)
    expected += struct.pack("<4q", 0, 1, 2, 3)
    assert (tmp_path / "x.idx").read_bytes() == expected
    reader = ShardReader(tmp_path / "x")
    assert len(reader) == 3 and reader.dtype == dtype and reader.token_count == 6
    assert [reader.document(i).tolist() for i in range(3)] == documents


def test_a_megatron_document_may_have_several_sequences(tmp_path: Path) -> None:
    np.arange(6, dtype="<u2").tofile(tmp_path / "x.bin")
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 3, 3)
    body = struct.pack("<3i3q3q", 2, 1, 3, 0, 4, 6, 0, 2, 3)
    (tmp_path / "x.idx").write_bytes(header + body)
    reader = ShardReader(tmp_path / "x")
    assert [reader.document(i).tolist() for i in range(len(reader))] == [[0, 1, 2], [3, 4, 5]]


def test_token_type_follows_the_vocabulary() -> None:
    assert token_type(65_535) == np.uint16 and token_type(65_536) == np.int32


def test_documents_are_their_tokens_and_an_end(
    shards_folder: Path, tokenizer: Tokenizer, texts: dict[str, list[str]]
) -> None:
    for split, expected in texts.items():
        opened = open_split(shards_folder, split)
        assert opened.bytes == sum(len(text.encode()) for text in expected)
        for index, text in enumerate(expected):
            ids = opened.reader.document(index).tolist()
            assert ids[-1] == tokenizer.eos_id
            assert tokenizer.decode(ids[:-1]) == text
        sidecar = pq.read_table(shards_folder / f"{split}.parquet")
        assert sidecar["tokens"].to_pylist() == opened.reader.lengths.tolist()
        assert sidecar["bytes"].to_pylist() == [len(text.encode()) for text in expected]
        assert sidecar.column_names == ["id", "source", "language", "tokens", "bytes"]


def test_writing_again_does_nothing_and_gives_equal_bytes(
    shards_folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    before = (shards_folder / "manifest.json").stat().st_mtime_ns
    shards.write(shards_folder.parent, tokenizer, shards_folder)
    assert (shards_folder / "manifest.json").stat().st_mtime_ns == before
    shards.write(shards_folder.parent, tokenizer, tmp_path / "again")
    for file in ("train.bin", "train.idx", "train.parquet"):
        assert (tmp_path / "again" / file).read_bytes() == (shards_folder / file).read_bytes()


@pytest.mark.parametrize("file", ["train.bin", "train.idx"])
@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "empty"])
def test_damaged_shards_are_refused_in_one_sentence(
    shards_folder: Path, tmp_path: Path, file: str, damage: str
) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(shards_folder, folder)
    content = bytearray((folder / file).read_bytes())
    if damage == "missing":
        (folder / file).unlink()
    else:
        content[len(content) // 2] ^= 0x01
        changed = {"cut": content[:-3], "flip": content, "empty": b""}[damage]
        (folder / file).write_bytes(changed)
    with pytest.raises(DataError, match=r"train\.(bin|idx)") as caught:
        open_split(folder, "train")
    assert "\n" not in str(caught.value)


def test_absent_shards_and_splits_are_named(shards_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run weft data first"):
        open_split(tmp_path, "train")
    with pytest.raises(DataError, match="no split 'dev'"):
        open_split(shards_folder, "dev")


def test_another_tokenizer_is_refused(shards_folder: Path, tokenizer: Tokenizer) -> None:
    opened = open_split(shards_folder, "train")
    opened.check_tokenizer(tokenizer)
    with pytest.raises(DataError, match="another tokenizer"):
        opened.check_tokenizer(train(iter(["something else, something else"]), 384))


def test_a_full_disk_leaves_no_folder(
    shards_folder: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_index", full)
    with pytest.raises(ResourceError, match="no disk space left"):
        shards.write(shards_folder.parent, tokenizer, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".out.parts"]
    monkeypatch.undo()
    monkeypatch.setattr(Tokenizer, "encode_flat", full)  # what was encoded is not encoded again
    shards.write(shards_folder.parent, tokenizer, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for file in ("train.bin", "train.idx", "train.parquet"):
        assert (tmp_path / "out" / file).read_bytes() == (shards_folder / file).read_bytes()


def test_a_fast_encoder_that_goes_wrong_leaves_the_plain_ids(
    shards_folder: Path,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = 0

    def wrong(self: FastEncoder, texts: list[str], ids: object, ends: object, index: int) -> None:
        nonlocal calls
        calls += 1
        raise ParityError

    assert tokenizer.fast_encoder is not None
    monkeypatch.setattr(FastEncoder, "check", wrong)
    shards.write(shards_folder.parent, tokenizer, tmp_path / "again")
    assert calls > 0 and "the plain one starts again" in capsys.readouterr().err
    for name in ("train.bin", "train.idx", "test.bin"):
        assert (tmp_path / "again" / name).read_bytes() == (shards_folder / name).read_bytes()

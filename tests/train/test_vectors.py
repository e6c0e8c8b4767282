"""Word vectors as first rows: which tokens get them, how they are fitted, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_objectives import SMALL
from test_session import StopAt, losses, make_run, train, weights

from weft.core import config
from weft.core.errors import ConfigError, DataError, Interrupted
from weft.data.loader import Loader
from weft.tokenizer import Tokenizer
from weft.train import session, shapes
from weft.train.config import TrainRun
from weft.train.vectors import begin, fitted, read, words

TEXT = "the 1.0 2.0 3.0\nand 0.5 -1 2e-1\nnowhere 1 1 1\nself -1 0 4\nthe 9 9 9\n"


def spelled(rows: dict[str, np.ndarray], *, header: bool = True) -> str:
    lines = [f"{word} " + " ".join(f"{value:.6f}" for value in vector) for word, vector in rows.items()]
    size = len(next(iter(rows.values())))
    return "\n".join([*([f"{len(rows)} {size}"] if header else []), *lines]) + "\n"


def some(tokenizer: Tokenizer, count: int, size: int) -> dict[str, np.ndarray]:
    """Vectors of tokens of a tokenizer, of words that it lacks too."""
    draw = np.random.default_rng(0)
    names = [word.decode() for word in sorted(words(tokenizer)) if word.isalpha()][:count]
    return {name: draw.normal(3.0, 2.0, size) for name in [*names, "nowhere", "zzzz zz"]}


def test_a_token_is_a_word_without_its_space(tiny_tokenizer: Tokenizer) -> None:
    found = words(tiny_tokenizer)
    both = {token: tiny_tokenizer.token_bytes(token) for token in found[b"the"]}
    assert set(both.values()) <= {b"the", b" the"} and b" the" in both.values()
    assert not any(token in tiny_tokenizer.special_ids for tokens in found.values() for token in tokens)
    assert b"" not in found and b"nowhere" not in found and "今天".encode() in found


@pytest.mark.parametrize("how", ["txt", "vec", "gz", "bz2", "xz", "zst", "zip"])
def test_files_are_read_plain_and_compressed(how: str, tmp_path: Path) -> None:
    content = (("5 3\n" if how == "vec" else "") + TEXT).encode()
    file = tmp_path / f"v.{how}"
    if how == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("v.txt", content)
    else:
        pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
                "zst": lambda raw: pa.Codec("zstd").compress(raw, asbytes=True)}  # fmt: skip
        file.write_bytes(pack.get(how, bytes)(content))
    found = read(file, {b"the": [], b"self": [], b"absent": []})
    assert {word: vector.tolist() for word, vector in found.items()} == {
        b"the": [1.0, 2.0, 3.0],
        b"self": [-1.0, 0.0, 4.0],
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"the 1 2 3\nand 1 2\n", "Line 2 of .* has 2 numbers, not 3"),
        (b"3 2\nthe 1 2\nand 1 2\n", "has 2 vectors and its first line says 3"),
        (b"the 1 two\n", "holds b'1' where numbers stand"),
        (b"the 1 nan\n", "not finite"),
        (b"\x00\x01\x02\n", "has 0 numbers, not some"),
        (None, "There is no file"),
    ],
)
def test_broken_files_are_errors(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "v.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(file, {b"the": []})
    packed = tmp_path / "v.gz"
    packed.write_bytes(gzip.compress(TEXT.encode())[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        read(packed, {b"the": []})
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        archive.writestr("a", "x 1\n")
        archive.writestr("b", "x 1\n")
    with pytest.raises(DataError, match="holds 2 files"):
        read(tmp_path / "v.zip", {b"the": []})


def test_vectors_are_fitted_to_the_width() -> None:
    draw = np.random.default_rng(1)
    # All that differs lies in three directions, so that three components keep all distances.
    given = draw.normal(size=(50, 3)) @ draw.normal(size=(3, 20)) + 7.0
    for width in (3, 8, 20, 64):
        found = fitted(given, width, 0.02)
        assert found.shape == (50, min(20, width))
        assert found.std() == pytest.approx(0.02) and abs(found.mean()) < 1e-3
        ours, theirs = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (found, given))
        assert np.allclose(ours / ours[0, 1], theirs / theirs[0, 1])


@pytest.mark.parametrize("size", [12, 32, 50])
def test_rows_start_from_the_file_and_others_stay(
    size: int, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = some(tiny_tokenizer, 40, size)
    (tmp_path / "v.vec").write_text(spelled(rows), encoding="utf-8")
    drawn = torch.randn(512, 32, generator=torch.Generator().manual_seed(0)) * 0.02
    weight = drawn.clone()
    said = begin(weight, tiny_tokenizer, str(tmp_path / "v.vec"))
    known = words(tiny_tokenizer)
    places = sorted(token for name in rows for token in known.get(name.encode(), []))
    assert said.startswith(f"word vectors: {len(places)} of 512 tokens start from")
    changed = (weight != drawn).any(1).nonzero().squeeze(1).tolist()
    assert changed == places
    assert torch.equal(weight[:, size:], drawn[:, size:])
    assert weight[places].std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(weight[known[b"the"][0]], weight[known[b"the"][-1]])


def test_a_run_starts_from_them_and_resumes_exactly(data_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(data_folder / "tokenizer")
    rows = some(tokenizer, 40, 100)
    (tmp_path / "v.txt").write_text(spelled(rows, header=False), encoding="utf-8")
    given = f"model.vectors={tmp_path / 'v.txt'}"
    run = make_run(data_folder, given)
    said: list[str] = []
    session.train(run, tmp_path / "whole", say=said.append)
    assert sum(line.startswith("word vectors: ") for line in said) == 1
    with pytest.raises(Interrupted):
        train(run, tmp_path / "parts", hooks=[StopAt(6)])
    # What was read once is in the checkpoint.
    (tmp_path / "v.txt").unlink()
    train(run, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


@pytest.mark.parametrize("name", ["tag", "corrupt"])
def test_every_kind_of_model_takes_them(name: str, data_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(data_folder / "tokenizer")
    (tmp_path / "v.txt").write_text(spelled(some(tokenizer, 40, 100)), encoding="utf-8")
    run = config.load(TrainRun, None, [f"data.path={data_folder}", f"objective.name={name}", *SMALL])
    loader = Loader(data_folder / "shards", "train", 64)
    if name == "tag":
        loader.labels = ("O", "B-x", "I-x")
    model = shapes.fresh_model(run, loader, torch.device("cpu"))
    before = model.embedding.weight.detach().clone()
    begin(model.embedding.weight, tokenizer, str(tmp_path / "v.txt"))
    changed = (model.embedding.weight != before).any(1)
    assert 40 <= int(changed.sum()) < 100
    assert model.embedding.weight[changed].std().item() == pytest.approx(before.std().item(), rel=0.1)


def test_no_known_word_and_a_start_are_refused(data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("nowhere 1 2\nneverland 3 4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has vectors for 0 tokens"):
        train(make_run(data_folder, f"model.vectors={tmp_path / 'v.txt'}"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model\.vectors is for fresh models"):
        make_run(data_folder, "model.vectors=x", "model.start=y")

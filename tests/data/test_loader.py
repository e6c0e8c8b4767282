"""A batch is a function of (seed, step); no token is lost, none doubled, none sees another document."""

import itertools
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.errors import DataError, UsageError
from weft.core.files import hash_file
from weft.data import shards
from weft.data.batch import IGNORED
from weft.data.indexed import ShardReader
from weft.data.loader import Loader, share
from weft.data.packing import Plan, plan
from weft.data.shards import open_split
from weft.tokenizer import Tokenizer, train


@settings(max_examples=25, deadline=None)
@given(width=st.integers(2, 90), rows=st.integers(1, 9))
def test_an_epoch_is_every_document_exactly_once(shards_folder: Path, width: int, rows: int) -> None:
    """Each piece continues its document: from pairs (input, target) the documents can be put together."""
    loader = Loader(shards_folder, "train", width, rows)
    reader = open_split(shards_folder, "train", verify=False).reader
    expected: Counter[tuple[int, int]] = Counter()
    for index in range(len(reader)):
        stream = [loader_eos(shards_folder), *reader.document(index).tolist()]
        expected.update(itertools.pairwise(stream))
    seen: Counter[tuple[int, int]] = Counter()
    for batch in loader.sequential():
        kept = batch.targets != IGNORED
        seen.update(zip(batch.tokens[kept].tolist(), batch.targets[kept].tolist(), strict=True))
    assert seen == expected
    assert sum(seen.values()) == loader.tokens_per_epoch == reader.token_count


def loader_eos(folder: Path) -> int:
    return open_split(folder, "train", verify=False).eos_id


@pytest.mark.parametrize("width", [8, 64])
def test_no_position_sees_another_document(shards_folder: Path, width: int) -> None:
    for batch in Loader(shards_folder, "train", width, 4).sequential():
        for tokens, targets, start in zip(batch.tokens, batch.targets, batch.document_start, strict=True):
            positions = np.arange(width)
            assert (start <= positions).all() and (start >= 0).all()
            first = start == positions
            # A document's range is one block, which begins where it says it begins.
            assert (start[1:][~first[1:]] == start[:-1][~first[1:]]).all() and first[0]
            inside = ~first & (targets != IGNORED)
            assert (tokens[inside] == targets[np.flatnonzero(inside) - 1]).all()
            padding = targets == IGNORED
            assert first[padding].all()


def test_a_batch_depends_on_seed_and_step_only(shards_folder: Path) -> None:
    one, two = Loader(shards_folder, "train", 64, 4, seed=3), Loader(shards_folder, "train", 64, 4, seed=3)
    late = two.batch(17)
    for step in (17, 0, 40, 17):
        batch = one.batch(step)
        if step == 17:
            for name in ("tokens", "targets", "document_start"):
                assert np.array_equal(getattr(batch, name), getattr(late, name))
    other = Loader(shards_folder, "train", 64, 4, seed=4).batch(17)
    assert not np.array_equal(other.tokens, late.tokens)
    assert late.tokens.dtype == late.targets.dtype == np.int64 and late.document_start.dtype == np.int32


def test_batches_run_through_epochs_whatever_their_size(shards_folder: Path) -> None:
    whole = Loader(shards_folder, "train", 64, 1, seed=9)
    rows = [whole.batch(step).tokens[0] for step in range(2 * whole.rows + 3)]
    first, second = rows[: whole.rows], rows[whole.rows : 2 * whole.rows]
    assert sorted(map(bytes, first)) == sorted(map(bytes, second))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for size in (2, 5, whole.rows + 1):
        loader = Loader(shards_folder, "train", 64, size, seed=9)
        joined = np.concatenate([loader.batch(step).tokens for step in range(len(rows) // size)])
        assert np.array_equal(joined, np.stack(rows[: len(joined)]))
    parts = [whole.gather(range(3, 5)).tokens, whole.gather(range(5, 7)).tokens]
    assert np.array_equal(np.concatenate(parts), np.stack(rows[3:7]))


def test_the_order_of_an_epoch_is_the_same_for_ever(shards_folder: Path) -> None:
    """Philox's raw stream is fixed: a change here would make old runs unresumable."""
    bits = np.random.Philox(key=np.array([3, 0], np.uint64)).random_raw(3)
    assert [int(value) for value in bits] == PHILOX_3_0


PHILOX_3_0 = [17234461323001060555, 1460271564492649549, 7061929949163127335]


def test_figures_for_bits_per_byte(
    shards_folder: Path, texts: dict[str, list[str]], tokenizer: Tokenizer
) -> None:
    loader = Loader(shards_folder, "test", 32)
    assert loader.bytes == sum(len(text.encode()) for text in texts["test"])
    assert loader.documents == len(texts["test"])
    assert loader.tokenizer_fingerprint == tokenizer.fingerprint
    loader.check_tokenizer(tokenizer)
    with pytest.raises(DataError, match="another tokenizer"):
        loader.check_tokenizer(train(iter(["else"]), 384))


@pytest.mark.parametrize(("rows", "seed"), [(0, 0), (1, -1), (1, 1 << 64)])
def test_impossible_arguments_are_refused(shards_folder: Path, rows: int, seed: int) -> None:
    with pytest.raises(UsageError, match="not possible"):
        Loader(shards_folder, "train", 32, rows, seed)


def test_loading_needs_no_data_engine(shards_folder: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('daft', 'xxhash', 'torch'): sys.modules[name] = None\n"
        "from weft.data.loader import Loader\n"
        "import weft.data.vocabulary, weft.data.packing, weft.data.shards, weft.tokenizer\n"
        "import weft.data.mixed, weft.data.pairs, weft.data.masking, weft.data.spans, weft.data.ahead\n"
        f"print(Loader({str(shards_folder)!r}, 'train', 64, 2).batch(0).tokens.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 64)"


@pytest.mark.parametrize("width", [2, 7, 64, 2048])
def test_whole_arrays_give_what_one_piece_after_another_gives(shards_folder: Path, width: int) -> None:
    loader = Loader(shards_folder, "train", width, 5)
    made, opened = plan(open_split(shards_folder, "train"), width), open_split(shards_folder, "train")
    for number, batch in enumerate(loader.sequential()):
        for line, row in enumerate(range(number * 5, min(number * 5 + 5, made.rows))):
            tokens, targets, start = plain_row(made, opened.reader, opened.eos_id, row)
            assert batch.tokens[line].tolist() == tokens
            assert batch.targets[line].tolist() == targets
            assert batch.document_start[line].tolist() == start


def plain_row(made: Plan, reader: ShardReader, eos: int, row: int) -> tuple[list[int], list[int], list[int]]:
    """Inputs, targets and starts of a row, piece by piece: the plain twin."""
    width = made.sequence_length
    tokens, targets, starts = [], [], []
    for piece in range(made.row[row], made.row[row + 1]):
        stream = [eos, *reader.document(int(made.document[piece])).tolist()]
        first, length = int(made.start[piece]), int(made.length[piece])
        starts += [len(tokens)] * length
        tokens += stream[first : first + length]
        targets += stream[first + 1 : first + length + 1]
    rest = range(len(tokens), width)
    return tokens + [eos] * len(rest), targets + [IGNORED] * len(rest), [*starts, *rest]


def test_shards_are_hashed_again_only_when_something_moved(shards_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(shards_folder, folder)
    (folder / ".train.verified").unlink(missing_ok=True)
    hashed: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "hash_file", lambda file: hashed.append(file) or hash_file(file))
        Loader(folder, "train", 64)
        Loader(folder, "train", 64)
        assert len(hashed) == 2
        copied = tmp_path / "copy"
        shutil.copytree(folder, copied)
        Loader(copied, "train", 64)
        assert len(hashed) == 4
        content = bytearray((folder / "train.bin").read_bytes())
        content[-1] ^= 1
        (folder / "train.bin").write_bytes(bytes(content))
        with pytest.raises(DataError, match="damaged"):
            Loader(folder, "train", 64)
        (copied / ".train.verified").write_text("{春")
        Loader(copied, "train", 64)


def test_a_share_needs_a_rank_that_exists(shards_folder: Path) -> None:
    with pytest.raises(UsageError, match="Rank 2 of 2"):
        share(Loader(shards_folder, "train", 64, 4), 0, 2, 2)

"""Every token is a target exactly once, rows hold what they may, and little of them is padding."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.errors import UsageError
from weft.data.packing import MOST_PADDING, pack, plan
from weft.data.shards import open_split


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(0, 70), max_size=60), width=st.integers(2, 33))
def test_every_target_lies_in_exactly_one_piece(lengths: list[int], width: int) -> None:
    made = pack(np.array(lengths, np.int64), width)
    covered = [np.zeros(length, int) for length in lengths]
    for document, start, length in zip(made.document, made.start, made.length, strict=True):
        assert 0 < length <= width and start + length <= lengths[document]
        covered[document][start : start + length] += 1
    assert all((part == 1).all() for part in covered)
    filled = [made.length[a:b].sum() for a, b in zip(made.row[:-1], made.row[1:], strict=True)]
    assert all(0 < total <= width for total in filled)
    assert made.row[-1] == len(made.length)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_placement_is_best_fit_decreasing(lengths: list[int]) -> None:
    width = 40
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(width - length)
    made = pack(np.array(lengths, np.int64), width)
    filled = [int(made.length[a:b].sum()) for a, b in zip(made.row[:-1], made.row[1:], strict=True)]
    assert sorted(filled) == sorted(width - room for room in rooms)


@pytest.mark.parametrize("width", [64, 128, 512, 2048, 16384, 131072])
@pytest.mark.parametrize("kind", ["mix", "books", "half", "window"])
def test_padding_is_below_one_percent(width: int, kind: str) -> None:
    random = np.random.default_rng(3)
    lengths = random.lognormal(6, 1.4, max(3000, 130 * width // 1000)).astype(np.int64) + 1
    if kind == "books":
        lengths = random.integers(1, 30 * width, 40)
    elif kind == "half":
        lengths = np.full(700, int(0.6 * width))
    lengths = np.concatenate([lengths, np.full(1, max(0, 110 * width - int(lengths.sum())))])
    made = pack(lengths, width, max_padding=MOST_PADDING, window_targets=int(kind == "window"))
    assert made.padding < 0.01
    assert np.array_equal(np.bincount(made.document, made.length, len(lengths)), lengths)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 70), max_size=60),
    width=st.integers(2, 33),
    most=st.sampled_from([0.0, 0.009, 0.2]),
    window=st.sampled_from([0, 1]),
)
def test_cutting_to_fill_loses_nothing_and_leaves_less_than_a_row(
    lengths: list[int], width: int, most: float, window: int
) -> None:
    made = pack(np.array(lengths, np.int64), width, max_padding=most, window_targets=window)
    covered = [np.zeros(length, int) for length in lengths]
    for document, start, length in zip(made.document, made.start, made.length, strict=True):
        covered[document][start : start + length] += 1
    assert all((part == 1).all() for part in covered)
    filled = [int(made.length[a:b].sum()) for a, b in zip(made.row[:-1], made.row[1:], strict=True)]
    assert all(0 < total <= width for total in filled)
    assert made.window[0] == 0 and made.window[-1] == made.rows
    if len(made.window) == 2:
        assert made.padding <= most or made.rows * width - sum(lengths) < width


def test_windows_hold_documents_that_lie_together() -> None:
    lengths = np.random.default_rng(1).integers(1, 60, 4000)
    made = pack(lengths, 32, max_padding=MOST_PADDING, window_targets=8192)
    assert len(made.window) > 10
    owner = np.repeat(np.arange(made.rows), np.diff(made.row))
    window = np.searchsorted(made.window, owner, side="right") - 1
    first = [made.document[window == w].min() for w in range(len(made.window) - 1)]
    last = [made.document[window == w].max() for w in range(len(made.window) - 1)]
    assert all(a < b for a, b in zip(last[:-1], first[1:], strict=True))
    assert made.length.sum() == lengths.sum()


def test_the_same_lengths_give_the_same_plan() -> None:
    lengths = np.random.default_rng(5).integers(1, 300, 500)
    first, second = pack(lengths, 64), pack(lengths, 64)
    for name in ("document", "start", "length", "row"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_mixed_rows_hold_the_same_pieces_beside_others() -> None:
    """Texts that stand there once for each predicate lie side by side; what shares a row is drawn."""
    lengths = np.repeat(np.random.default_rng(5).integers(8, 12, 300), 4)
    plain, mixed, again = pack(lengths, 64), pack(lengths, 64, mixed=True), pack(lengths, 64, mixed=True)
    assert plain.rows == mixed.rows and plain.padding == mixed.padding
    assert sorted(mixed.document.tolist()) == list(range(len(lengths))) and (mixed.start == 0).all()
    assert np.array_equal(mixed.length, lengths[mixed.document])
    assert all(np.array_equal(getattr(mixed, n), getattr(again, n)) for n in ("document", "row"))
    texts = [
        np.mean([len({*(made.document[a:b] // 4)}) for a, b in zip(made.row[:-1], made.row[1:], strict=True)])
        for made in (plain, mixed)
    ]
    assert texts[1] > 2 * texts[0]


def test_a_plan_is_saved_beside_the_shards_and_a_stale_one_is_not_used(shards_folder: Path) -> None:
    opened = open_split(shards_folder, "valid")
    made = plan(opened, 32)
    file = shards_folder / "valid.pack-32.npz"
    assert file.is_file()
    file.write_bytes(b"damaged")
    assert np.array_equal(plan(opened, 32).row, made.row)
    other = open_split(shards_folder, "test")
    (shards_folder / "test.pack-32.npz").write_bytes(file.read_bytes())
    assert plan(other, 32).length.sum() == other.reader.token_count


def test_an_impossible_length_is_refused() -> None:
    with pytest.raises(UsageError, match="sequence length of 1"):
        pack(np.array([3]), 1)

"""Every token is a target exactly once, rows hold what they may, and little of them is padding."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.errors import UsageError
from weft.data.packing import pack, plan
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


@pytest.mark.parametrize("width", [128, 512, 2048])
def test_padding_is_below_one_percent_on_a_real_mix(width: int) -> None:
    lengths = np.random.default_rng(3).lognormal(6, 1.4, 5000).astype(np.int64) + 1
    made = pack(lengths, width)
    assert made.padding < 0.01
    assert made.length.sum() == lengths.sum()


def test_the_same_lengths_give_the_same_plan() -> None:
    lengths = np.random.default_rng(5).integers(1, 300, 500)
    first, second = pack(lengths, 64), pack(lengths, 64)
    for name in ("document", "start", "length", "row"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


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

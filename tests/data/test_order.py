"""Orders of epochs: permutations, the same for ever, and not replayed."""

import numpy as np
import pytest

from weft.data import order
from weft.data.order import Shuffled, Windowed, feistel, words


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_the_network_is_a_permutation_and_equals_its_plain_twin(size: int) -> None:
    keys = words(7, 3, 5, 0, 0)
    found = feistel(np.arange(size), size, keys)
    assert sorted(found.tolist()) == list(range(size))
    assert found.tolist() == [plain_feistel(place, size, keys.tolist()) for place in range(size)]


def plain_feistel(place: int, size: int, keys: list[int]) -> int:
    word = (1 << 64) - 1
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        left, right = place >> half, place & ((1 << half) - 1)
        for key in keys:
            x = (right + key) & word
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
            left, right = right, left ^ ((x ^ (x >> 31)) & ((1 << half) - 1))
        place = (left << half) | right
        if place < size:
            return place


@pytest.mark.parametrize("drawn", [10, 1 << 20])
def test_every_epoch_is_every_row_in_another_order(monkeypatch: pytest.MonkeyPatch, drawn: int) -> None:
    monkeypatch.setattr(order, "DRAWN", drawn)
    made = Shuffled(100, seed=4)
    epochs = made.at(np.arange(300)).reshape(3, 100)
    assert (np.sort(epochs, 1) == np.arange(100)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert np.array_equal(Shuffled(100, seed=4).at(np.array([250, 3])), epochs.ravel()[[250, 3]])
    others = (Shuffled(100, seed=5), Shuffled(100, seed=4, stream=1))
    assert not any(np.array_equal(other.at(np.arange(100)), epochs[0]) for other in others)


def test_a_place_far_into_many_rows_is_found_at_once() -> None:
    made = Shuffled(10**12, seed=1)
    places = np.arange(7 * 10**12 + 5, 7 * 10**12 + 1005)
    found = made.at(places)
    assert len(set(found.tolist())) == 1000 and found.min() >= 0 and found.max() < 10**12
    # Spread over the whole range: a mean of 1000 uniform numbers has a deviation of 0.009.
    assert 0.45 < found.mean() / 10**12 < 0.55


def test_windows_keep_together_what_lies_together() -> None:
    edges = np.array([0, 10, 25, 30, 50, 60])
    made = Windowed(edges, group=2, seed=9)
    epochs = made.at(np.arange(120)).reshape(2, 60)
    assert (np.sort(epochs, 1) == np.arange(60)).all()
    window = np.searchsorted(edges, epochs, side="right") - 1
    for line in window.tolist():
        parts, seen = [], set()
        while line:
            members = set(line[:1])
            size = 0
            while size < len(line) and len(members | {line[size]}) <= 2 and line[size] not in seen:
                members.add(line[size])
                size += 1
            parts.append(members)
            seen |= members
            line = line[size:]
        # Five windows in groups of two: no window is met again after its group.
        assert len(parts) == 3
    again = Windowed(edges, group=2, seed=9)
    assert again.at(np.array([119, 0, 70])).tolist() == epochs.ravel()[[119, 0, 70]].tolist()

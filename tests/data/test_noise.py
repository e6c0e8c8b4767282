"""Masked tokens and corrupted spans: shares, nothing lost, and a function of (seed, sample) alone."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.errors import ConfigError, DataError
from weft.data.batch import IGNORED, Batch
from weft.data.loader import Loader, share
from weft.data.masking import MaskedLoader, Masking, mask_id
from weft.data.order import words
from weft.data.spans import Corruption, SpanLoader, noise_mask, sentinel_ids
from weft.tokenizer import Tokenizer, train


@pytest.fixture(scope="module")
def spare() -> Tokenizer:
    """A tokenizer with many reserved tokens, the same for all that it encodes."""
    return train(iter(["春眠不觉晓"]), 512)


class Rows:
    """A loader of given rows, -1 for padding."""

    def __init__(self, rows: list[list[int]], width: int) -> None:
        self.batch_rows = len(rows)
        self.targets = np.full((len(rows), width), IGNORED, np.int64)
        for place, row in enumerate(rows):
            self.targets[place, : len(row)] = row

    def gather(self, samples: range) -> Batch:
        targets = self.targets[[g % self.batch_rows for g in samples]]
        start = np.zeros_like(targets, dtype=np.int32)
        return Batch(np.zeros_like(targets), targets, start)


@pytest.mark.parametrize("rate", [0.15, 0.3])
def test_masks_take_their_shares(shards_folder: Path, spare: Tokenizer, rate: float) -> None:
    loader = Loader(shards_folder, "train", 256, 16, seed=1)
    masked = MaskedLoader(loader, spare, seed=5, masking=Masking(rate))
    taken = hidden = other = same = 0
    for step in range(3):
        plain, batch = loader.batch(step), masked.batch(step)
        chosen = batch.targets != IGNORED
        text = plain.targets
        assert (batch.targets[chosen] == text[chosen]).all()
        eos = spare.eos_id
        assert not (text[chosen] == eos).any()
        untouched = ~chosen & (text != IGNORED)
        assert (batch.tokens[untouched] == text[untouched]).all()
        assert np.array_equal(batch.document_start, plain.document_start)
        open_to = (text != IGNORED) & (text != eos)
        assert np.array_equal(chosen.sum(1), np.maximum(1, np.rint(rate * open_to.sum(1))))
        taken += int(chosen.sum())
        hidden += int((batch.tokens[chosen] == mask_id(spare)).sum())
        same += int((batch.tokens[chosen] == text[chosen]).sum())
        changed = chosen & (batch.tokens != mask_id(spare)) & (batch.tokens != text)
        other += int(changed.sum())
        assert not set(batch.tokens[changed].tolist()) & spare.special_ids
    assert hidden / taken == pytest.approx(0.8, abs=0.05)
    assert other / taken == pytest.approx(0.1, abs=0.04) and same / taken == pytest.approx(0.1, abs=0.04)


def test_noise_belongs_to_the_sample(shards_folder: Path, spare: Tokenizer) -> None:
    def masked(rows: int) -> MaskedLoader:
        return MaskedLoader(Loader(shards_folder, "train", 64, rows, seed=1), spare, seed=5)

    def spans(rows: int) -> SpanLoader:
        return SpanLoader(Loader(shards_folder, "train", 64, rows, seed=1), 64, spare, seed=5)

    for make in (masked, spans):
        whole = make(6).batch(7)
        for workers in (2, 3, 5):
            parts = [share(make(6), 7, rank, workers) for rank in range(workers)]  # type: ignore[arg-type]
            for name in ("tokens", "targets"):
                joined = np.concatenate([getattr(part, name) for part in parts])
                assert np.array_equal(joined, getattr(whole, name))
        assert not np.array_equal(whole.targets, make(6).batch(8).targets)


def plain_mask(size: int, corruption: Corruption, draws: np.ndarray) -> list[bool]:
    """Span by span, as the paper tells it."""
    if size < 2:
        return [False] * size
    noise = min(max(round(size * corruption.density), 1), size - 1)
    spans = min(max(round(noise / corruption.mean_span), 1), noise, size - noise)

    def parts(total: int, keys: list[int]) -> list[int]:
        cuts = sorted(sorted(range(total - 1), key=lambda place: keys[place])[: spans - 1])
        edges = [0, *(cut + 1 for cut in cuts), total]
        return [b - a for a, b in itertools.pairwise(edges)]

    text, hidden = parts(size - noise, draws[:size].tolist()), parts(noise, draws[size:].tolist())
    return [kind for a, b in zip(text, hidden, strict=True) for kind in [False] * a + [True] * b]


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(0, 300), density=st.floats(0.01, 0.99), mean=st.floats(1, 20), seed=st.integers(0, 99)
)
def test_spans_equal_the_plain_twin(size: int, density: float, mean: float, seed: int) -> None:
    corruption = Corruption(density, mean)
    draws = words(2 * size, seed, 0, 0, 0)
    assert noise_mask(size, corruption, draws).tolist() == plain_mask(size, corruption, draws)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_text_comes_back_from_source_and_target(spare: Tokenizer, data: st.DataObject) -> None:
    width = data.draw(st.integers(2, 80))
    token = st.integers(0, 250)
    rows = data.draw(st.lists(st.lists(token, min_size=1, max_size=width), min_size=1, max_size=4))
    loader = SpanLoader(Rows(rows, width), width, spare, seed=data.draw(st.integers(0, 9)))
    batch = loader.batch(data.draw(st.integers(0, 5)))
    for row, text in enumerate(rows):
        source = batch.source[row][batch.source_pair[row] == 0].tolist()
        target = batch.targets[row][batch.target_pair[row] == 0].tolist()
        tokens = batch.tokens[row][batch.target_pair[row] == 0].tolist()
        assert source.pop() == target.pop() == spare.eos_id
        assert tokens == [spare.eos_id, *target]
        spans: dict[int, list[int]] = {}
        for token_id in target:
            if token_id > 250:
                spans[token_id] = []
            else:
                spans[list(spans)[-1]].append(token_id)
        assert [t for s in source for t in (spans.pop(s) if s > 250 else [s])] == text and not spans


def test_lengths_are_those_of_t5() -> None:
    # The published settings: 568 tokens give 512 source and 114 target positions.
    assert Corruption().text_length(512) == 568
    assert Corruption().lengths(568) == (512, 114)


def test_a_full_row_fills_the_source(shards_folder: Path, spare: Tokenizer) -> None:
    length = Corruption().text_length(128)
    loader = SpanLoader(Loader(shards_folder, "train", length, 4), length, spare, seed=0)
    batch = loader.batch(0)
    full = (batch.source_pair == 0).all(1)
    assert full.any() and batch.source.shape == (4, 128)
    assert ((batch.targets != IGNORED).sum(1)[full] == loader.target_length).all()


def test_what_is_not_possible_is_said(make_shards: Callable[..., Path], spare: Tokenizer) -> None:
    for wrong in ({"rate": 0.0}, {"masked": 0.9, "other": 0.2}):
        with pytest.raises(ConfigError, match="not possible"):
            Masking(**wrong)
    for density, mean in ((0.0, 3.0), (0.15, 0.5)):
        with pytest.raises(ConfigError, match="not possible"):
            Corruption(density, mean)
    full = train(iter(["".join(chr(0x4E00 + i) for i in range(400)) * 2]), 320)
    with pytest.raises(DataError, match="has no mask"):
        mask_id(full)
    with pytest.raises(DataError, match="need 500 sentinels"):
        sentinel_ids(spare, 500)
    with pytest.raises(DataError, match="give as many ids"):
        SpanLoader(Rows([[1] * 64], 64), 64, full, 0, sentinels=[600])


def test_ids_behind_the_vocabulary_serve(spare: Tokenizer) -> None:
    rows = Rows([list(range(64))], 64)
    masked = MaskedLoader(rows, spare, 0, mask=spare.vocab_size).batch(0)
    assert (masked.tokens == spare.vocab_size).sum() > 4
    batch = SpanLoader(rows, 64, spare, 0, sentinels=range(600, 603)).batch(0)
    assert {600, 601, 602} == {t for t in batch.source[0].tolist() if t >= 600}

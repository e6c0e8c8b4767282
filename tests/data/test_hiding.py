"""Token dropout: a share of ordinary tokens is hidden, the same ones each time, and labels stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.labelled_sets import data
from tests.task_runs import lines, reviews, trained

from weft.core import config
from weft.core.errors import ConfigError, DataError
from weft.data.hiding import Hiding
from weft.data.labels import LabelLoader
from weft.data.masking import mask_id
from weft.tokenizer import Tokenizer, train
from weft.train.config import TrainRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data("tag", tmp_path_factory.mktemp("tag"))


def loaders(folder: Path, rate: float, rows: int = 4) -> tuple[LabelLoader, LabelLoader, Tokenizer]:
    """The rows as they are, the same with hidden tokens, and the tokenizer."""
    tokenizer = Tokenizer.load(folder / "tokenizer")
    plain = LabelLoader(folder / "shards", "train", 64, rows, 3, form="tag")
    hiding = Hiding(tokenizer, rate)
    return plain, LabelLoader(folder / "shards", "train", 64, rows, 3, form="tag", hiding=hiding), tokenizer


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_the_share_is_hidden_and_nothing_else_changes(folder: Path, rate: float) -> None:
    plain, hiding, tokenizer = loaders(folder, rate)
    mask, special = mask_id(tokenizer), list(tokenizer.special_ids)
    hidden = ordinary = 0
    for first in range(0, 64, 4):
        before, after = plain.gather(range(first, first + 4)), hiding.gather(range(first, first + 4))
        changed = before.tokens != after.tokens
        assert (after.tokens[changed] == mask).all()
        assert not np.isin(before.tokens[changed], special).any()
        np.testing.assert_array_equal(before.targets, after.targets)
        np.testing.assert_array_equal(before.document_start, after.document_start)
        hidden += int(changed.sum())
        ordinary += int((~np.isin(before.tokens, special)).sum())
    assert hidden / ordinary == pytest.approx(rate, abs=0.05)


def test_a_row_has_the_same_noise_whatever_the_batch_and_another_in_the_next_epoch(folder: Path) -> None:
    plain, four, _ = loaders(folder, 0.3)
    _, eight, _ = loaders(folder, 0.3, rows=8)
    np.testing.assert_array_equal(eight.batch(0).tokens[4:], four.batch(1).tokens)
    np.testing.assert_array_equal(four.gather(range(5, 6)).tokens[0], four.batch(1).tokens[1])
    rows = plain.rows
    seen = {}
    for sample in range(2 * rows):
        before, after = (one.gather(range(sample, sample + 1)).tokens for one in (plain, four))
        places = (before != after).tobytes()
        earlier = seen.setdefault(before.tobytes(), places)
        assert sample < rows or earlier != places or before.shape[1] < 8


def test_validation_is_whole(folder: Path) -> None:
    plain, hiding, _ = loaders(folder, 0.5)
    for before, after in zip(plain.sequential(), hiding.sequential(), strict=True):
        np.testing.assert_array_equal(before.tokens, after.tokens)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(DataError, match="The tokenizer has no mask"):
        Hiding(train(["".join(chr(0x4E00 + i) for i in range(400)) * 2], 320), 0.1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["objective.name=classify", "objective.token_dropout=1.0"], "must be at least 0 and less than 1"),
        (["objective.name=classify", "objective.token_dropout=-0.1"], "must be at least 0 and less than 1"),
        (["objective.name=span", "objective.token_dropout=0.1"], "is for labels .*, not for span"),
        (["objective.token_dropout=0.1"], "is for labels .*, not for pretrain"),
    ],
)
def test_settings_that_make_no_sense(changes: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"objective.token_dropout.*{sentence}"):
        config.load(TrainRun, None, changes)


def test_a_run_learns_with_hidden_tokens_and_another_without(tmp_path: Path) -> None:
    file = lines(tmp_path / "reviews.jsonl", reviews(120))
    losses = {}
    for rate in (0.0, 0.4):
        (tmp_path / str(rate)).mkdir()
        run = trained(tmp_path / str(rate), file, "classify", f"objective.token_dropout={rate}", steps=3)
        losses[rate] = (run / "metrics.jsonl").read_text()
    first = {rate: text.split('"loss": ')[1].split(",")[0] for rate, text in losses.items()}
    assert first[0.0] != first[0.4]

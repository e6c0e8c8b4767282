"""Taggers that are told of a predicate: where it is found, what is added, and their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.baselines import check_gradients, documents, drawn, packed, shape, whole
from torch import Tensor

from weft.checkpoint.huggingface import load_any, save_model
from weft.checkpoint.kinds import KINDS
from weft.core.errors import CheckpointError, ConfigError
from weft.models.predicate import find
from weft.ops.both_ways import BothWays

MARKERS = (88, 89)
TAGGERS = ("WeftLstmForTokenClassification", "WeftGruForTokenClassification", "WeftCnnForTokenClassification")


def asked() -> tuple[Tensor, Tensor]:
    """Rows of which some documents have a predicate of one or two tokens and some have none."""
    tokens, start = packed()
    tokens = tokens % 80
    for row, first, stop in documents(start):
        if stop - first >= 9:
            middle = first + (stop - first) // 2
            tokens[row, middle - 2], tokens[row, middle + row] = MARKERS
    return tokens, start


def test_a_predicate_is_found_in_its_own_document() -> None:
    tokens, start = asked()
    place = find(tokens, BothWays(start), MARKERS)
    seen = 0
    for row, first, stop in documents(start):
        words = tokens[row, first:stop].tolist()
        assert bool(place.marked[row, first:stop].all()) == (MARKERS[0] in words)
        if MARKERS[0] not in words:
            assert not place.marked[row, first:stop].any()
            continue
        opened, closed = (first + words.index(marker) for marker in MARKERS)
        for at in range(first, stop):
            assert (int(place.first[row, at]), int(place.last[row, at])) == (opened + 1, closed - 1)
            assert int(place.side[row, at]) == (0 if at < opened else 1 if at <= closed else 2)
        seen += 1
    assert seen == 6


def test_the_first_of_several_is_taken_and_half_of_one_is_none() -> None:
    row = torch.tensor([[1, 88, 5, 89, 88, 6, 89, 88, 7, 3, 89, 5, 88]])
    start = torch.tensor([[0] * 7 + [7] * 3 + [10] * 3], dtype=torch.int32)
    place = find(row, BothWays(start), MARKERS)
    assert place.marked.tolist() == [[True] * 7 + [False] * 6]
    assert place.first[0, :7].tolist() == place.last[0, :7].tolist() == [2] * 7


def test_a_document_may_begin_with_the_token_after_the_predicate() -> None:
    """As where a chat model's end of turn is its end of text."""
    place = find(torch.tensor([[89, 5, 88, 7, 89, 3]]), whole(torch.zeros(1, 6)), MARKERS)
    assert bool(place.marked.all()) and place.side.tolist() == [[0, 0, 1, 1, 1, 2]]
    assert place.first[0, 0] == place.last[0, 0] == 3


@pytest.mark.parametrize("name", TAGGERS)
def test_documents_of_a_row_do_not_see_each_other_and_each_its_predicate(name: str) -> None:
    model = drawn(shape(name, predicate_markers=MARKERS))
    tokens, start = asked()
    together = model(tokens, BothWays(start))
    for row, first, stop in documents(start):
        piece = tokens[row : row + 1, first:stop]
        torch.testing.assert_close(
            together[row, first:stop], model(piece, whole(piece))[0], rtol=1e-5, atol=1e-5
        )


def test_the_word_of_the_predicate_reaches_the_whole_document_and_no_other() -> None:
    model = drawn(shape("WeftCnnForTokenClassification", predicate_markers=MARKERS, num_hidden_layers=1))
    tokens, start = asked()
    changed = tokens.clone()
    row, first, stop = next(one for one in documents(start) if MARKERS[0] in tokens[one[0], one[1] : one[2]])
    changed[row, first + tokens[row, first:stop].tolist().index(MARKERS[0]) + 1] += 1
    moved = (model(changed, BothWays(start)) - model(tokens, BothWays(start))).abs().amax(-1) > 0
    assert bool(moved[row, first:stop].all())
    moved[row, first:stop] = False
    assert not moved.any()


def test_it_begins_as_if_there_were_no_predicate() -> None:
    told, plain = (
        KINDS[TAGGERS[0]].build(shape(TAGGERS[0], predicate_markers=markers)).eval()
        for markers in (MARKERS, None)
    )
    told.initialise(torch.Generator().manual_seed(3))
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if not k.startswith("predicate.")})
    tokens, start = asked()
    assert torch.equal(told(tokens, BothWays(start)), plain(tokens, BothWays(start)))


@pytest.mark.parametrize("name", TAGGERS)
def test_parameters_learn_and_are_counted(name: str) -> None:
    config = shape(name, predicate_markers=(3, 4), bigram_buckets=16, bigram_size=8)
    model = drawn(config).train()
    assert config.parameters == sum(p.numel() for p in model.parameters())
    matrices = sum(
        p.numel() for n, p in model.named_parameters() if n.startswith("predicate.") and p.ndim > 1
    )
    without = shape(name, bigram_buckets=16, bigram_size=8)
    assert config.flops_per_token(9) - without.flops_per_token(9) == 6 * (matrices - 3 * config.input_size)
    with_words = shape(name, predicate_markers=(88, 89))
    tokens, start = asked()
    model = drawn(with_words).train()
    model.logits(model(tokens, BothWays(start))).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    # Texts without any predicate teach the rest.
    check_gradients(drawn(shape(name)).train())


def test_a_checkpoint_keeps_the_markers(tmp_path: Path) -> None:
    model = drawn(shape(TAGGERS[0], predicate_markers=MARKERS, crf=True))
    save_model(tmp_path / "m", model, None)
    again = load_any(tmp_path / "m")
    assert again.config == model.config
    tokens, start = asked()
    assert torch.equal(again(tokens, BothWays(start)), model(tokens, BothWays(start)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], "must be two tokens"),
        ([1, 1], "must be two different tokens"),
        ([1, 90], "must be of the 90 tokens"),
        ("a", "must be a list of whole numbers"),
        ([], "hold predicate"),
    ],
)
def test_damaged_markers_are_refused(value: Any, said: str, tmp_path: Path) -> None:
    save_model(tmp_path / "m", drawn(shape(TAGGERS[0], predicate_markers=MARKERS)), None)
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"predicate_markers": value}))
    with pytest.raises(CheckpointError, match=said):
        load_any(tmp_path / "m")


def test_only_a_tagger_is_told() -> None:
    with pytest.raises(ConfigError, match="is for labels of tokens"):
        shape("WeftLstmForSequenceClassification", predicate_markers=MARKERS)

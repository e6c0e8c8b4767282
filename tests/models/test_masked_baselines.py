"""Recurrent networks and CNNs that learn from hidden tokens, and vectors of pairs of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.baselines import check_gradients, check_packed_is_alone, drawn, named, packed, scores, shape
from torch.nn import functional as F

from weft.checkpoint.huggingface import load_any, save_model
from weft.checkpoint.kinds import KINDS
from weft.core.errors import ConfigError
from weft.models.cells import states, states_plain
from weft.models.recurrent import Recurrent
from weft.ops.both_ways import BothWays
from weft.ops.loss import IGNORED

MASKED = ["WeftLstmForMaskedLM", "WeftGruForMaskedLM", "WeftCnnForMaskedLM"]


@pytest.mark.parametrize("changes", [{}, {"bigram_buckets": 50, "bigram_size": 4}])
@pytest.mark.parametrize("layers", [1, 2])
def test_documents_of_like_length_together_give_the_states_of_packed_sequences(
    layers: int, changes: dict[str, Any]
) -> None:
    model = drawn(shape("WeftLstmForTokenClassification", num_hidden_layers=layers, **changes))
    assert isinstance(model, Recurrent)
    tokens, start = packed()
    context = BothWays(start)
    x = torch.randn(*tokens.shape, model.config.input_size, generator=torch.Generator().manual_seed(5))
    found = []
    for read in (states, states_plain):
        model.zero_grad()
        given = x.clone().requires_grad_()
        hidden = read(model.rnn, given, context)
        hidden.sin().sum().backward()
        assert given.grad is not None
        found.append([hidden, given.grad, *(p.grad for p in model.rnn.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", named("lstm", "cnn"))
def test_pairs_do_not_reach_into_the_next_document(name: str) -> None:
    model = drawn(shape(name, bigram_buckets=50, bigram_size=4))
    check_packed_is_alone(model, None, 1e-5)
    check_gradients(model.train())


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("buckets", [0, 40])
def test_parameters_are_counted_and_come_back_to_the_bit(name: str, buckets: int, tmp_path: Path) -> None:
    pairs = {"bigram_buckets": buckets, "bigram_size": 4} if buckets else {}
    model = drawn(shape(name, labels=(), num_hidden_layers=1, **pairs))
    assert model.config.parameters == sum(p.numel() for p in model.parameters())
    save_model(tmp_path / "m", model, None)
    back = load_any(tmp_path / "m").eval()
    assert back.config == model.config and back.output.weight is back.embedding.weight
    tokens, start = packed()
    one, other = (m.logits(m(tokens, BothWays(start))) for m in (model, back))
    assert one.shape == (*tokens.shape, 90) and torch.equal(one, other)


@pytest.mark.parametrize("name", MASKED)
def test_the_loss_is_the_cross_entropy_of_the_hidden_tokens(name: str) -> None:
    model = KINDS[name].build(shape(name, labels=()))
    model.initialise(torch.Generator().manual_seed(0))
    tokens, start = packed()
    targets = torch.where(torch.arange(tokens.numel()).view_as(tokens) % 5 == 0, tokens, IGNORED)
    hidden = model.eval()(tokens, BothWays(start))
    loss = model.masked_loss(hidden, targets, 0.5)
    plain = F.cross_entropy(model.logits(hidden).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(loss, 0.5 * plain)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="bigram_buckets = -1"):
        shape("WeftLstmForTokenClassification", bigram_buckets=-1)
    with pytest.raises(ConfigError, match="labels is empty"):
        shape("WeftLstmForTokenClassification", labels=())


def test_without_pairs_nothing_changes() -> None:
    """Checkpoints from before have neither the table nor its keys."""
    plain, paired = (
        drawn(shape("WeftCnnForSequenceClassification", bigram_buckets=buckets)) for buckets in (0, 9)
    )
    assert not any("bigrams" in name for name, _ in plain.named_parameters())
    assert not torch.equal(scores(plain, *packed()), scores(paired, *packed()))

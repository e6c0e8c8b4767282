"""What the tests of every baseline need: small models, packed rows, and each document on its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft.checkpoint.kinds import KINDS
from weft.models.baseline import Baseline
from weft.models.baseline_config import BASELINES, KERNEL_SIZES, BaselineConfig
from weft.ops.both_ways import BothWays

LENGTHS = (11, 17, 1, 2, 9)
PADDING = 3
"""Positions after the documents of a row, which are documents of one token each."""


def named(*bodies: str) -> list[str]:
    """The architectures with one of these bodies and a head with labels."""
    return [
        name for name, (body, head) in BASELINES.items() if body in bodies and head in ("sequence", "token")
    ]


def shape(architecture: str, **changes: Any) -> BaselineConfig:
    fields: dict[str, Any] = {
        "vocab_size": 90,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "architecture": architecture,
        "labels": ("负面", "中性", "正面"),
        "kernel_sizes": KERNEL_SIZES if BASELINES[architecture][0] == "cnn" else (),
    }
    return BaselineConfig(**(fields | changes))


def drawn(config: BaselineConfig) -> Baseline:
    """Weights that are all alive: fresh ones begin with zeros in places."""
    model = KINDS[config.architecture].build(config).eval()
    assert isinstance(model, Baseline)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model


def packed() -> tuple[Tensor, Tensor]:
    """(tokens int64 [2, T], document_start int32 [2, T]): the same lengths in another order in each row."""
    width = sum(LENGTHS) + PADDING
    tokens = torch.randint(0, 90, (2, width), generator=torch.Generator().manual_seed(1))
    start = torch.arange(width, dtype=torch.int32).repeat(2, 1)
    for row in range(2):
        begin = 0
        for length in LENGTHS[row:] + LENGTHS[:row]:
            start[row, begin : begin + length] = begin
            begin += length
    return tokens, start


def documents(start_BT: Tensor) -> list[tuple[int, int, int]]:
    """(row, first, stop) of every document."""
    context = BothWays(start_BT)
    firsts = (start_BT == torch.arange(start_BT.shape[1])).nonzero().tolist()
    return [(row, first, int(context.end[row, first])) for row, first in firsts]


def whole(tokens_BT: Tensor) -> BothWays:
    """What positions see where a row is one document."""
    return BothWays(torch.zeros_like(tokens_BT, dtype=torch.int32))


def scores(model: Baseline, tokens_BT: Tensor, start_BT: Tensor) -> Tensor:
    """What the head says: [documents, C] in their order in the rows, or [B, T, C]."""
    context = BothWays(start_BT)
    hidden = model(tokens_BT, context)
    if model.config.head == "token":
        return model.logits(hidden)
    width = tokens_BT.shape[1]
    return model.classify(hidden, context, torch.tensor([r * width + f for r, f, _ in documents(start_BT)]))


def check_packed_is_alone(model: Baseline, dtype: torch.dtype | None, bound: float) -> None:
    """Hidden states, scores of tokens and of documents do not depend on what else is in the rows."""
    tokens, start = packed()
    context = BothWays(start)
    with torch.no_grad():
        hidden = model(tokens, context, dtype)
        assert hidden.dtype == (dtype or torch.float32)
        places = documents(start)
        together = model.classify(
            hidden, context, torch.tensor([r * tokens.shape[1] + f for r, f, _ in places])
        )
        for number, (row, first, stop) in enumerate(places):
            piece = tokens[row : row + 1, first:stop]
            own = model(piece, whole(piece), dtype)
            close = {"rtol": bound, "atol": bound}
            torch.testing.assert_close(hidden[row, first:stop], own[0], **close)
            torch.testing.assert_close(model.logits(hidden)[row, first:stop], model.logits(own)[0], **close)
            document = model.classify(own, whole(piece), torch.tensor([0]))
            torch.testing.assert_close(together[number : number + 1], document, **close)


def check_order_does_not_matter(model: Baseline) -> None:
    """Rows in another order give the same states in that order."""
    tokens, start = packed()
    with torch.no_grad():
        there = model(tokens, BothWays(start))
        back = model(tokens.flip(0), BothWays(start.flip(0)))
    torch.testing.assert_close(there, back.flip(0), rtol=1e-5, atol=1e-6)


def check_gradients(model: Baseline) -> None:
    """Every parameter learns from the loss of its head."""
    tokens, start = packed()
    found = scores(model, tokens, start)
    if model.crf is None:
        (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    else:
        model.crf.loss(found, tokens % found.shape[-1], start).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name

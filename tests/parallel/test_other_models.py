"""Encoders and encoder-decoders over data ranks: the losses and gradients of one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.parallel.parity import LENGTH, ROWS, VOCABULARY, batch
from tests.parallel.ranks import Ranks

from weft.core.errors import ConfigError
from weft.data.batch import IGNORED, Batch, PairBatch
from weft.models.encdec import EncoderDecoder
from weft.models.encdec_config import EncoderDecoderConfig
from weft.models.encoder import Encoder
from weft.models.encoder_config import EncoderConfig
from weft.parallel.mesh import Mesh
from weft.parallel.model import parallelise
from weft.parallel.plan import Plan
from weft.parallel.world import joined
from weft.train.config import OptimizerSection
from weft.train.objectives.classify import Classify
from weft.train.objectives.extract import Extract
from weft.train.objectives.masked import Masked
from weft.train.objectives.pairs import Translate
from weft.train.objectives.tag import Tag
from weft.train.optim import Optimizer
from weft.train.step import Step

LABELS = ("a", "b", "c", "d")
KINDS = {
    "classify": ("ModernBertForSequenceClassification", Classify),
    "tag": ("ModernBertForTokenClassification", Tag),
    "span": ("ModernBertForQuestionAnswering", Extract),
    "masked": ("ModernBertForMaskedLM", Masked),
}


def labelled(name: str, step: int) -> Batch:
    """Labels of a form on the packed rows of the decoders' tests; of the first step two rows have none."""
    plain = batch(step, masked=False)
    tokens = plain.tokens % VOCABULARY
    starts = plain.document_start
    first = starts == np.arange(LENGTH)
    if name == "masked":
        targets = np.where(tokens % 5 == 0, tokens, IGNORED)
    elif name == "tag":
        targets = tokens % len(LABELS)
    elif name == "classify":
        targets = np.where(first, tokens % len(LABELS), IGNORED)
    else:
        targets = np.where(first, 3, 0)
    if step == 0:
        targets[-2:] = IGNORED
    return Batch(tokens, targets.astype(np.int64), starts)


def paired(step: int) -> PairBatch:
    plain = batch(step, masked=step == 0)
    pair = (plain.document_start == np.arange(LENGTH)).cumsum(1).astype(np.int32)
    return PairBatch(plain.tokens, pair, plain.tokens, plain.targets, plain.document_start, pair)


def built(name: str) -> tuple[Any, Any]:
    if name == "pairs":
        shape = EncoderDecoderConfig(VOCABULARY, 32, 8, 64, 2, 2, 4, dropout_rate=0.0)
        return EncoderDecoder(shape), Translate()
    architecture, objective = KINDS[name]
    head = name in ("classify", "tag", "span")
    labels = (LABELS[:2] if name == "span" else LABELS) if head else ()
    crf = name == "tag"
    return Encoder(EncoderConfig(VOCABULARY, 32, 64, 4, 4, architecture, labels=labels, crf=crf)), objective()


def train(name: str, plan: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    layout = Plan.parse(plan)
    with joined(torch.device("cpu")) as world:
        mesh = Mesh.build(layout, world)
        whole, objective = built(name)
        noise = torch.Generator().manual_seed(1)
        for parameter_name, parameter in whole.named_parameters():
            mean = 1.0 if "norm" in parameter_name else 0.0
            torch.nn.init.normal_(parameter, mean, 0.2 if parameter.ndim > 1 else 0.1, generator=noise)
        model = parallelise(whole, layout, mesh, torch.float32)
        optimizer = Optimizer(model.module, OptimizerSection(name="muon"), 0.003, mesh.group("stage"))
        step = Step(model, objective, optimizer, 1.0, torch.float32)

        def own(index: int) -> list[Any]:
            made = paired(index) if name == "pairs" else labelled(name, index)
            part = made.part(mesh.coordinate("data"), mesh.size("data"))
            edges = range(0, len(part.tokens), 2)
            return [type(part)(*(x[e : e + 2] for x in vars(part).values())) for e in edges]

        micro = own(0)
        targets = model.count(sum(objective.count(b) for b in micro))
        model.accumulate(objective, micro, 1.0 / targets, torch.float32)
        gradients = {n: p.grad.clone() for n, p in model.module.named_parameters() if p.grad is not None}
        model.module.zero_grad()
        return [step.run(own(index), 1.0).loss for index in range(4)], gradients


def compare(ranks: Ranks, plan: str, name: str) -> None:
    expected, whole = train(name, "")
    assert expected[-1] < 10 and ROWS % 4 == 0
    for losses, gradients in ranks.run(train, name, plan):
        assert losses == pytest.approx(expected, rel=1e-4)
        assert gradients.keys() == whole.keys()
        for key, found in gradients.items():
            error = (found - whole[key]).norm() / whole[key].norm().clamp(min=1e-9)
            assert error < 1e-4, f"{key}: {error:.2e}"


@pytest.mark.parametrize("name", [*KINDS, "pairs"])
def test_two_replicas_are_one_process(name: str, two: Ranks) -> None:
    compare(two, "dp=2", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, "pairs"])
def test_four_replicas_are_one_process(name: str, four: Ranks) -> None:
    compare(four, "dp=4", name)


def test_other_plans_are_refused() -> None:
    with joined(torch.device("cpu")) as world:
        layout = Plan(tp=2)
        with pytest.raises(ConfigError, match="alone or with dp alone"):
            parallelise(built("tag")[0], layout, Mesh(Plan(), world, None), torch.float32)

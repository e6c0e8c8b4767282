"""The objective that a run file names."""

from __future__ import annotations

import torch

from weft.tokenizer import Tokenizer
from weft.train.config import TrainRun
from weft.train.objectives.base import Objective
from weft.train.objectives.classify import Classify
from weft.train.objectives.contrastive import Contrastive
from weft.train.objectives.distil import Distil
from weft.train.objectives.dpo import DPO
from weft.train.objectives.extract import Extract
from weft.train.objectives.frozen import Frozen, teacher
from weft.train.objectives.masked import Masked
from weft.train.objectives.orpo import ORPO
from weft.train.objectives.pairs import Translate
from weft.train.objectives.pretrain import Pretrain
from weft.train.objectives.tag import Tag


def choose(run: TrainRun, tokenizer: Tokenizer, shares: tuple[float, ...] = ()) -> Objective:
    """The objective of ``run``; ``tokenizer``: that of its data, ``shares``: of the training documents, those
    of each class. ConfigError for a teacher with another tokenizer."""
    section, smoothing = run.objective, run.objective.label_smoothing
    match section.name:
        case "classify":
            weights = _weights(shares) if section.balance_classes else None
            return Classify(smoothing, weights, section.agreement or 0.0)
        case "tag" | "extractive":
            return Tag(smoothing, spans=section.name == "tag")
        case "span":
            return Extract()
        case "masked":
            return Masked()
        case "contrastive":
            return Contrastive(section.temperature or 0.05)
        case "dpo":
            assert run.model.start is not None
            return DPO(Frozen(run.model.start), section.beta, smoothing)
        case "orpo":
            return ORPO(section.beta)
        case "distil":
            assert section.teacher is not None
            return Distil(teacher(section.teacher, tokenizer), section.alpha, section.temperature or 2.0)
        case "pairs" | "corrupt":
            return Translate(smoothing)
        case _:
            return Pretrain()


def _weights(shares: tuple[float, ...]) -> torch.Tensor:
    """fp32 [C]: the same weight for every class as a whole, 1 on average over the documents."""
    return torch.tensor([1.0 / (len(shares) * share) if share else 0.0 for share in shares])

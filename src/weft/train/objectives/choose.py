"""The objective that a run file names."""

from __future__ import annotations

import torch

from weft.train.config import ObjectiveSection
from weft.train.objectives.base import Objective
from weft.train.objectives.classify import Classify
from weft.train.objectives.extract import Extract
from weft.train.objectives.masked import Masked
from weft.train.objectives.pairs import Translate
from weft.train.objectives.pretrain import Pretrain
from weft.train.objectives.tag import Tag


def choose(section: ObjectiveSection, shares: tuple[float, ...] = ()) -> Objective:
    """The objective of ``section``; ``shares``: of the training documents, those of each class."""
    smoothing = section.label_smoothing
    match section.name:
        case "classify":
            return Classify(smoothing, _weights(shares) if section.balance_classes else None)
        case "tag":
            return Tag(smoothing)
        case "span":
            return Extract()
        case "masked":
            return Masked()
        case "pairs" | "corrupt":
            return Translate(smoothing)
        case _:
            return Pretrain()


def _weights(shares: tuple[float, ...]) -> torch.Tensor:
    """fp32 [C]: the same weight for every class as a whole, 1 on average over the documents."""
    return torch.tensor([1.0 / (len(shares) * share) if share else 0.0 for share in shares])

"""Distillation: a model learns from the distributions of another one (Hinton et al. 2015, arXiv:1503.02531).

B rows, T positions, E model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.core.errors import ConfigError
from weft.data.batch import Batch
from weft.models import Decoder
from weft.ops.distillation import Taught, summed_distillation
from weft.ops.local import local
from weft.parallel.rows import Rows
from weft.train.objectives.base import Kind
from weft.train.objectives.frozen import Frozen


class Distil:
    """See :func:`weft.ops.distillation.distillation_plain`.

    Validation measures the cross entropy alone, which compares with that of models trained otherwise, and the
    divergence from the teacher beside it.
    """

    kind: Kind = "decoder"

    def __init__(self, teacher: Frozen, alpha: float = 0.5, temperature: float = 2.0):
        self.teacher, self.alpha, self.temperature = teacher, alpha, temperature
        self._apart = 0.0

    def count(self, batch: Batch) -> int:
        """Positions that carry loss."""
        return batch.target_count

    def figures(self) -> dict[str, float]:
        """``divergence``: KL(teacher || model) at temperature 1, in nats."""
        found, self._apart = self._apart, 0.0
        return {"divergence": found}

    def loss(self, model: Decoder, rows: Rows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Decoder, hidden_BTE: Tensor, rows: Rows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]. ConfigError for a teacher of another vocabulary."""
        dtype = hidden_BTE.dtype
        teacher = self.teacher.model(rows.tokens.device, dtype)
        ours, theirs = model.config.vocab_size, teacher.config.vocab_size
        if ours != theirs:
            raise ConfigError(
                f"objective.teacher = {self.teacher.folder} has a vocabulary of {theirs} tokens and the "
                f"model one of {ours}; distillation needs the same."
            )
        taught_NF = self.teacher.hidden(rows, dtype).flatten(0, 1)
        alpha, temperature = (self.alpha, self.temperature) if model.training else (1.0, 1.0)
        taught = Taught(taught_NF, teacher.output.weight, alpha, temperature)
        hidden_NE, weight_VE = hidden_BTE.flatten(0, 1), local(model.output.weight)
        found = summed_distillation(hidden_NE, weight_VE, rows.targets.flatten(), taught, scale)
        if model.training:
            return found
        self._apart += found.item() / scale
        return model.output.loss(hidden_BTE, rows.targets, scale)

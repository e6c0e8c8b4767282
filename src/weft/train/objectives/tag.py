"""One label a token: named entities, semantic roles, any spans written as BIO.

B rows, T positions, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.data.batch import IGNORED, Batch
from weft.data.forms.tag import OUTSIDE
from weft.models.encoder import Encoder
from weft.ops.crf import best
from weft.parallel.rows import SeenRows
from weft.tasks.tag import legal
from weft.train.objectives.base import Kind


class Tag:
    """Cross entropy of the label of each token in nats, or the likelihood of whole sequences of labels where
    the model has a CRF.

    ``spans``: labels are BIO, and validation counts spans that are right from end to end, as the best legal
    sequence of labels says them: their F1 is the task's, in tokens instead of characters.
    """

    kind: Kind = "encoder"

    def __init__(self, smoothing: float = 0.0, *, spans: bool = False):
        self.smoothing, self.spans = smoothing, spans
        self._right = 0
        self._counts = dict.fromkeys(_COUNTS, 0)

    def count(self, batch: Batch) -> int:
        """Tokens with a label."""
        return batch.target_count

    def loss(self, model: Encoder, rows: SeenRows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Encoder, hidden_BTE: Tensor, rows: SeenRows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]."""
        kept = rows.targets != IGNORED
        scores_BTC = model.logits(hidden_BTE).float()
        if not model.training:
            self._right += int((scores_BTC[kept].argmax(-1) == rows.targets[kept]).sum())
            if self.spans:
                self._count(model, scores_BTC, rows)
        if model.crf is not None:
            return model.crf.loss(scores_BTC, rows.targets, rows.context.start) * scale
        smoothing = self.smoothing if model.training else 0.0
        total = F.cross_entropy(
            scores_BTC[kept], rows.targets[kept], label_smoothing=smoothing, reduction="sum"
        )
        return total * scale

    def figures(self) -> dict[str, float]:
        """Validation tokens whose own best class is theirs, and spans, since the last call."""
        found = {"validation_accuracy": float(self._right)}
        if self.spans:
            found |= {name: float(count) for name, count in self._counts.items()}
        self._right, self._counts = 0, dict.fromkeys(_COUNTS, 0)
        return found

    def recorded(self, sums: dict[str, float], targets: int) -> dict[str, float]:
        """The accuracy of labels, and the F1 of spans."""
        accuracy = {"validation_accuracy": sums["validation_accuracy"] / max(targets, 1)}
        if not self.spans:
            return accuracy
        both = sums["found"] + sums["gold"]
        return accuracy | {"validation_f1": 2 * sums["hits"] / both if both else 0.0}

    def _count(self, model: Encoder, scores_BTC: Tensor, rows: SeenRows) -> None:
        labels = model.config.labels
        kept, start = rows.targets != IGNORED, rows.context.start
        table = [torch.as_tensor(part, dtype=torch.float32, device=kept.device) for part in legal(labels)]
        if model.crf is not None:
            table = [part + own.float() for part, own in zip(table, model.crf.table, strict=True)]
        else:
            scores_BTC = scores_BTC.log_softmax(-1)
        classes = best(scores_BTC, start, (table[0], table[1], table[2])).where(kept, labels.index(OUTSIDE))
        gold = rows.targets.clamp(min=0).where(kept, labels.index(OUTSIDE))
        inside = torch.tensor([name.startswith("I-") for name in labels], device=kept.device)
        begins = torch.tensor([name.startswith("B-") for name in labels], device=kept.device)
        stops = [_stops(inside[one], start) for one in (classes, gold)]
        hits = begins[gold] & (classes == gold) & (stops[0] == stops[1])
        for name, here in zip(_COUNTS, (hits, begins[classes], begins[gold]), strict=True):
            self._counts[name] += int(here.sum())


_COUNTS = ("hits", "found", "gold")


def _stops(inside_BT: Tensor, start_BT: Tensor) -> Tensor:
    """int64 [B, T]: for each position the first one after it that does not go on with a span."""
    T = inside_BT.shape[1]
    index = torch.arange(T, device=inside_BT.device)
    ends = torch.ones_like(inside_BT)
    ends[:, :-1] = ~inside_BT[:, 1:] | (start_BT[:, 1:] == index[1:])
    places = torch.where(ends, index + 1, T)
    return places.flip(1).cummin(1).values.flip(1)

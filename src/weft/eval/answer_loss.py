"""How well a decoder foretells the answers of conversations: the loss that fine-tuning counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from weft.data.batch import IGNORED, Batch
from weft.eval.metrics.bits_per_byte import target_losses
from weft.eval.standing import Measure, quotient
from weft.models import Decoder
from weft.tokenizer import Tokenizer
from weft.tokenizer.answers import Encoded

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AnswerLosses:
    """Of each of N conversations: ``nats`` of its answers, their ``tokens`` (ends of turns included) and
    UTF-8 ``bytes``, all float64 [N]. ``beyond``: answers that the context does not hold; not scored."""

    nats: Floats
    tokens: Floats
    bytes: Floats
    beyond: int

    def measures(self) -> list[Measure]:
        """Nats a token, and bits a byte, which compares models of different tokenizers."""
        rates = (
            quotient("loss", self.nats, self.tokens, "plain"),
            quotient("bits_per_byte", self.nats / np.log(2), self.bytes, "plain"),
        )
        return [replace(one, lower=True) for one in rates]


def answer_losses(
    model: Decoder, tokenizer: Tokenizer, conversations: Sequence[Encoded], rows: int = 8
) -> AnswerLosses:
    """Loss on the answers alone; ``rows`` conversations are worked on at once.

    One longer than the context loses its beginning, and with it the answers that stand there.
    """
    kept = [_learnt(one, model.config.max_position_embeddings) for one in conversations]
    nats, tokens, size = (np.zeros(len(kept)) for _ in range(3))
    order = sorted(range(len(kept)), key=lambda place: len(kept[place][0]))
    for first in range(0, len(order), rows):
        places = order[first : first + rows]
        batch = _padded([kept[place][:2] for place in places], tokenizer.eos_id)
        counts = (batch.targets != IGNORED).sum(axis=1)
        owners = np.repeat(np.arange(len(places)), counts)
        losses = target_losses(model, batch, None) if counts.any() else np.zeros(0)
        nats[places] = np.bincount(owners, weights=losses, minlength=len(places))
        tokens[places] = counts
    for place, (ids, learnt, _) in enumerate(kept):
        size[place] = len(tokenizer.decode(ids[learnt].tolist(), skip_special=True).encode("utf-8"))
    return AnswerLosses(nats, tokens, size, sum(beyond for _, _, beyond in kept))


def _learnt(one: Encoded, context: int) -> tuple[Ints, npt.NDArray[np.bool_], int]:
    """The last ``context`` tokens, which of them are of whole answers, and how many answers are not there."""
    cut = max(0, len(one.ids) - context)
    learnt = np.zeros(len(one.ids), bool)
    beyond = 0
    for start, stop in zip(one.answers[0::2], one.answers[1::2], strict=True):
        beyond += start < cut
        learnt[start:stop] = start >= cut
    return np.array(one.ids[cut:], np.int64), learnt[cut:], beyond


def _padded(kept: Sequence[tuple[Ints, npt.NDArray[np.bool_]]], eos_id: int) -> Batch:
    """A row for each conversation, as long as the longest; an end of text comes before, as in training."""
    shape = (len(kept), max(len(ids) for ids, _ in kept))
    tokens, targets = np.full(shape, eos_id, np.int64), np.full(shape, IGNORED, np.int64)
    starts = np.tile(np.arange(shape[1], dtype=np.int32), (len(kept), 1))
    for row, (ids, learnt) in enumerate(kept):
        tokens[row, 1 : len(ids)] = ids[:-1]
        targets[row, : len(ids)][learnt] = ids[learnt]
        starts[row, : len(ids)] = 0
    return Batch(tokens, targets, starts)

"""What a checkpoint can be asked for, as its small files say; no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weft.checkpoint.huggingface import resolve
from weft.checkpoint.kinds import Config, read_config
from weft.models import DecoderConfig
from weft.models.encdec_config import EncoderDecoderConfig
from weft.tasks import Card, read_card
from weft.tasks.card import DOES, TASKS

_FORMS = {"sequence": "classify", "token": "tag", "span": "span", "masked": "classify"}


@dataclass(frozen=True)
class Abilities:
    """``kind``: decoder, encoder or encoder-decoder; ``tasks`` of :data:`weft.api.able.CALLS`;
    ``languages``: what it translates into, none where it was not told."""

    kind: str = ""
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


def abilities(path: str | Path) -> Abilities:
    """What the checkpoint at ``path`` can do. CheckpointError for a folder that is missing or damaged."""
    folder = resolve(path)
    shape = read_config(folder)
    if isinstance(shape, DecoderConfig):
        return Abilities("decoder")
    card = read_card(folder, usual_card(shape))
    kind = "encoder-decoder" if isinstance(shape, EncoderDecoderConfig) else "encoder"
    return Abilities(kind, tasks_of(shape, card), card.writes)


def usual_card(shape: Config) -> Card:
    """For a checkpoint that other programs made: what its head is for."""
    if isinstance(shape, DecoderConfig | EncoderDecoderConfig):
        return Card("translation", "pairs")
    form = _FORMS[shape.head]
    return Card(TASKS[form][0], form)


def tasks_of(shape: Config, card: Card) -> tuple[str, ...]:
    """The tasks of a model that is no decoder."""
    if isinstance(shape, DecoderConfig | EncoderDecoderConfig):
        return DOES[card.task]
    # A head that names masked tokens has no labels, whatever a card says.
    return (*(() if shape.head == "masked" else DOES[card.task]), "embed")

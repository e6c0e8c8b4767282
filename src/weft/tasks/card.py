"""What a checkpoint was trained for: a file beside its weights that other programs need not know."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.core.errors import CheckpointError
from weft.core.files import write_text_atomic
from weft.data.sentences import UNITS, Unit

FILE = "task.json"

TASKS = {
    "classify": ("classification", "sentiment"),
    "tag": ("entities", "roles"),
    "span": ("answers",),
    "extractive": ("summary",),
    "pairs": ("translation", "summary"),
}
"""The tasks of each form of examples, the usual one first."""

DOES = {
    "classification": ("classify",),
    "sentiment": ("classify", "sentiment"),
    "entities": ("entities",),
    "roles": ("roles",),
    "answers": ("answer",),
    "translation": ("translate",),
    "summary": ("summarize",),
}
"""What a model of each task can be asked for."""


@dataclass(frozen=True)
class Card:
    """``task`` and ``form``: what is answered, and how examples were encoded. ``languages`` of pairs: source
    and target, in both directions with ``both_ways``. ``window``: tokens of a document where contexts are
    cut; ``unit``: what extractive summaries are made of. ``temperature`` divides the scores of labels
    (arXiv:1706.04599), to which ``bayes`` times the evidence of a naive Bayes is added
    (:mod:`weft.tasks.naive_bayes`; 0: there is none). ``usual``: the score that half of the validation texts
    reach, 0 where it was not measured.
    """

    task: str
    form: str
    languages: tuple[str, ...] = ()
    both_ways: bool = False
    window: int = 0
    unit: Unit = "sentence"
    temperature: float = 1.0
    bayes: float = 0.0
    usual: float = 0.0

    @property
    def writes(self) -> tuple[str, ...]:
        """The languages that it translates into; none where its pairs had none."""
        return self.languages if self.both_ways else self.languages[1:]


def write_card(folder: Path, card: Card) -> None:
    """Put the card into a checkpoint folder."""
    table = dataclasses.asdict(card)
    if not card.bayes:
        # Versions of Weft that know no such weight read the card all the same.
        del table["bayes"]
    write_text_atomic(folder / FILE, json.dumps(table, ensure_ascii=False, indent=1) + "\n")


def read_card(folder: Path, default: Card | None = None) -> Card:
    """The card of a checkpoint folder; ``default`` where there is none. CheckpointError for a damaged one."""
    file = folder / FILE
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if default is None:
            raise CheckpointError(f"{folder} has no {FILE}, which says what the model answers.") from None
        return default
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); copy the checkpoint again.") from error
    return _checked(file, table)


def _checked(file: Path, table: Any) -> Card:
    fields = {field.name: field for field in dataclasses.fields(Card)}
    if not isinstance(table, dict) or not set(table) <= set(fields) or table.get("form") not in TASKS:
        raise CheckpointError(f"{file} describes no task that Weft knows; copy the checkpoint again.")
    if table.get("task") not in TASKS[table["form"]]:
        raise CheckpointError(
            f"{file} names the task {table.get('task')!r}, which is none of {table['form']}."
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
    }
    kinds: dict[str, type | tuple[type, ...]] = {
        "languages": tuple,
        "both_ways": bool,
        "window": int,
        "temperature": (int, float),
        "bayes": (int, float),
        "usual": (int, float),
    }
    for name, kind in kinds.items():
        if name in values and not isinstance(values[name], kind):
            raise CheckpointError(f"{file}: {name} = {table[name]!r} cannot be; copy the checkpoint again.")
    for name, least in (("temperature", 1e-9), ("bayes", 0.0)):
        if not least <= values.get(name, 1.0) < float("inf"):
            raise CheckpointError(f"{file}: {name} = {table[name]} cannot be; copy the checkpoint again.")
    if values.get("bayes") and values["form"] != "classify":
        raise CheckpointError(f"{file}: bayes is for labels of texts, not for {values['form']}.")
    if values.get("unit", "sentence") not in list(UNITS):
        raise CheckpointError(f"{file}: unit = {values['unit']!r} is none of {', '.join(UNITS)}.")
    return Card(**values)

"""The best state of a run by what validation says, and when to stop because it gets no better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weft.checkpoint import state as checkpoint
from weft.checkpoint.saver import Saver
from weft.parallel.company import Company
from weft.train.config import TrainSection
from weft.train.saving import Progress

FOLDER = "best"
"""In the run folder: the state of the best validation."""

HIGHER = ("validation_accuracy", "validation_f1")
"""Figures of which more is better; of the others less."""


class Best:
    """Keeps the state with the best ``section.best``, and counts the validations since."""

    def __init__(self, folder: Path, section: TrainSection, company: Company, before: list[dict[str, Any]]):
        """``before``: the records of the run so far."""
        self.figure, self._patience = section.best, section.patience
        self.saver = Saver(folder / FOLDER, 1, company, beside=False)
        self.value: float | None = None
        self.since = 0
        for record in before:
            self._better(record)

    @property
    def exhausted(self) -> bool:
        """Whether validation has not got better for as long as was allowed."""
        return self._patience is not None and self.since >= self._patience

    def after_validation(self, record: dict[str, Any], progress: Progress) -> None:
        """Keep the state when it is the best so far. Every rank must call it."""
        if self._better(record):
            self.saver.save(progress.state(record["step"]))
            self.saver.wait()

    def restore(self, progress: Progress) -> int | None:
        """Take the best state up again and return its step; None when there is none."""
        newest = self.saver.company.first(lambda: checkpoint.newest(self.saver.folder))
        return None if newest is None else progress.restore(newest, self.saver.company)

    def _better(self, record: dict[str, Any]) -> bool:
        if self.figure not in record:
            return False
        found = float(record[self.figure])
        better = self.value is None or (found > self.value if self.figure in HIGHER else found < self.value)
        self.value, self.since = (found, 0) if better else (self.value, self.since + 1)
        return better


def records(file: Path, most: int) -> list[dict[str, Any]]:
    """The records of the first ``most`` steps."""
    if not file.exists() or not most:
        return []
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:most]]
    return [record for record in found if record["step"] <= most]

"""What a run trains its model for, as the checkpoint will say it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from weft.core import config, manifest
from weft.core.errors import ConfigError
from weft.data.supervised_config import SupervisedConfig
from weft.tasks.card import TASKS, Card
from weft.train.config import ObjectiveSection


def made(section: ObjectiveSection, shards: Path) -> Card | None:
    """The card for a model of supervised examples; None for models of plain text and of conversations.

    Raises ConfigError for a task that the objective does not train.
    """
    if section.name not in TASKS:
        if section.task is not None:
            raise ConfigError(f"objective.name = {section.name} trains no task; leave objective.task out.")
        return None
    known = TASKS[section.name]
    if section.task is not None and section.task not in known:
        raise ConfigError(f"objective.name = {section.name} trains {' or '.join(known)}, not {section.task}.")
    record = manifest.read(shards) or {}
    examples = config.build(SupervisedConfig, tomllib.loads(record.get("config", "")), str(shards))
    usual = known[1] if section.name == "pairs" and not examples.languages else known[0]
    predicates = section.name == "tag" and bool(record.get("figures", {}).get("markers"))
    usual = "roles" if predicates or examples.reader == "roles" else usual
    return Card(
        task=section.task or usual,
        form=section.name,
        languages=examples.languages,
        both_ways=examples.both_ways,
        window=examples.window,
        unit=examples.unit,
    )

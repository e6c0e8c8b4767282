"""Tiny models of each form, trained in a second or two."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.core import config
from weft.data import supervised
from weft.data.config import SplitConfig
from weft.train import session
from weft.train.config import TrainRun

BASE = (
    "data.sequence_length=64", "model.hidden_size=32", "model.head_dim=16", "model.num_hidden_layers=1",
    "train.batch_tokens=512", "train.micro_rows=4", "train.save_steps=1000", "train.validate_steps=1000",
    "train.validate_rows=4",
)  # fmt: skip


def lines(file: Path, records: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return file


def trained(
    folder: Path, file: Path, form: str, *changes: str, steps: int = 20, vocab: int = 384, **settings: Any
) -> Path:
    """A run on ``file`` in ``folder``."""
    chosen = supervised.SupervisedConfig(
        form=form, split=dataclasses.replace(SplitConfig(), valid=0.1, test=0.0), **settings
    )
    supervised.prepare([file], vocab, folder / "data", chosen)
    run = config.load(
        TrainRun,
        None,
        [f"data.path={folder / 'data'}", f"objective.name={form}", f"train.steps={steps}", *BASE, *changes],
    )
    session.train(run, folder / "run", say=lambda text: None)
    return folder / "run"


WORDS = {"good": ("fine", "lovely", "bright", "warm"), "bad": ("awful", "dull", "cold", "broken")}


def reviews(count: int, start: int = 0) -> list[dict[str, str]]:
    found = []
    for number in range(start, start + count):
        label = "good" if number % 3 else "bad"
        words = WORDS[label]
        text = f"the {words[number % 4]} film {number} was {words[(number // 4) % 4]}"
        found.append({"text": text, "label": label})
    return found


NAMES = ("Anna", "Peter", "Maria", "Oscar")
PLACES = ("Paris", "Berlin", "Rome", "Oslo")


def tagged(count: int, start: int = 0) -> list[dict[str, Any]]:
    found = []
    for number in range(start, start + count):
        name, place = NAMES[number % 4], PLACES[(number // 4) % 4]
        text = f"{name} went to {place} in {number}"
        begin = text.index(place)
        spans = [
            {"start": 0, "end": len(name), "label": "PER"},
            {"start": begin, "end": begin + len(place), "label": "LOC"},
        ]
        found.append({"text": text, "spans": spans})
    return found


def questions(count: int, start: int = 0) -> list[dict[str, Any]]:
    found = []
    for number in range(start, start + count):
        name, place = NAMES[number % 4], PLACES[(number // 4) % 4]
        context = f"It rained. {name} went to {place} on day {number}. The end."
        answers = [{"text": place, "start": context.index(place)}, {"text": f"to {place}", "start": 16}]
        answers[1]["start"] = context.index(f"to {place}")
        found.append({"question": f"Where did {name} go?", "context": context, "answers": answers})
    return found


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    digits = "零一二三四五六七八九"
    found = []
    for number in range(start, start + count):
        spelled = "".join(digits[int(digit)] for digit in str(number))
        found.append({"source": f"number {number} is here", "target": f"数字{spelled}在这里"})
    return found

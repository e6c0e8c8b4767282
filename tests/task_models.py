"""A tiny model of every task, made once: each is trained for a second or two on texts that are made up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from weft.core import config
from weft.data import supervised
from weft.data.config import SplitConfig
from weft.train import session
from weft.train.config import TrainRun

SMALL = (
    "data.sequence_length=64", "model.hidden_size=48", "model.num_hidden_layers=2",
    "model.num_attention_heads=2", "model.dropout=0.0", "train.batch_tokens=1024", "train.micro_rows=8",
    "train.save_steps=1000", "train.validate_steps=1000", "train.device=cpu", "train.arithmetic=fp32",
)  # fmt: skip
WORDS = ("今天", "真的", "我们", "产品", "the", "very", "and", "了")
NAMES, PLACES = ("小明", "李雷", "Ann"), ("北京", "上海", "Rome")

TEXTS = {
    "sentiment": "今天 喜欢 真的 the 产品",
    "entities": "今天 小明 the Rome 我们",
    "roles": "小明 喜欢 北京 了",
    "question": "谁在",
    "context": "今天小明 在 上海 了",
    "translation": "1 2 3",
    "summary": "4 5 6 7",
}
"""Something of the kind that each has learnt."""


def _record(task: str, chance: random.Random) -> dict[str, Any]:
    words = " ".join(chance.choices(WORDS, k=chance.randint(1, 4)))
    name, place = chance.choice(NAMES), chance.choice(PLACES)
    if task == "sentiment":
        good = chance.random() < 0.5
        return {
            "text": f"{words} {'喜欢' if good else '讨厌'} {words}",
            "label": "正面" if good else "负面",
        }
    if task == "entities":
        text = f"{words} {name} the {place} 了"
        return {"text": text, "spans": [_place(text, name, "人名"), _place(text, place, "地名")]}
    if task == "roles":
        text = f"{name} 喜欢 {place} {words}"
        who = [_place(text, name, "谁"), _place(text, place, "什么")]
        return {"text": text, "predicate": _place(text, "喜欢", "")} | {"roles": who}
    if task == "answers":
        context = f"{words}{name} 在 {place} 了"
        question, answer = chance.choice([("谁在", name), ("在哪", place)])
        return {
            "question": question,
            "context": context,
            "answers": [{"text": answer, "start": context.index(answer)}],
        }
    digits = chance.choices(range(10), k=chance.randint(2, 5))
    target = "".join("零一二三四五六七八九"[digit] for digit in digits)
    return {"source": " ".join(map(str, digits)), "target": target}


def _place(text: str, piece: str, label: str) -> dict[str, Any]:
    start = text.index(piece)
    return {"start": start, "end": start + len(piece), "label": label}


_FORMS = {"sentiment": "classify", "entities": "tag", "roles": "tag", "answers": "span"}
_STEPS = {"translation": 25, "summary": 25, "answers": 60}


def _trained(task: str, folder: Path) -> Path:
    """A run that learnt ``task``."""
    folder.mkdir()
    chance = random.Random(task)
    lines = {json.dumps(_record(task, chance), ensure_ascii=False): None for _ in range(300)}
    (folder / "examples.jsonl").write_text("\n".join(lines), encoding="utf-8")
    form: Any = _FORMS.get(task, "pairs")
    more: dict[str, Any] = {"languages": ("de", "zh"), "both_ways": True} if task == "translation" else {}
    chosen = supervised.SupervisedConfig(form=form, split=SplitConfig(valid=0.1, test=0.1), **more)
    supervised.prepare([folder / "examples.jsonl"], 512, folder / "data", chosen)
    changes = [f"data.path={folder / 'data'}", f"objective.name={form}", f"objective.task={task}", *SMALL]
    run = config.load(TrainRun, None, [*changes, f"train.steps={_STEPS.get(task, 30)}"])
    session.train(run, folder / "run", say=lambda text: None)
    return folder / "run"


_MADE: dict[str, Path] = {}


def made(factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs by their tasks, trained when they are first asked for."""
    if not _MADE:
        root = factory.mktemp("tasks")
        for task in ("sentiment", "entities", "roles", "answers", "translation", "summary"):
            _MADE[task] = _trained(task, root / task)
    return dict(_MADE)

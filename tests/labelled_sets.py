"""Small sets of every form of supervised examples, made from nothing, that a tiny model learns in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from weft.data import supervised
from weft.data.config import SplitConfig

GOOD, BAD = ("好", "喜欢", "great", "fine"), ("差", "讨厌", "awful", "bad")
NAMES, PLACES = ("小明", "李雷", "Ann", "Bob"), ("北京", "上海", "Paris", "Rome")
FILLER = ("今天", "真的", "the", "very", "了", "我们", "and", "那个")


def records(form: str, count: int = 240) -> list[dict[str, Any]]:
    """Examples of a form, different ones each."""
    chance = random.Random(form)
    made = [_MAKE[form](chance, number) for number in range(count)]
    return [json.loads(text) for text in dict.fromkeys(json.dumps(r, ensure_ascii=False) for r in made)]


def data(form: str, folder: Path, vocab_size: int = 512, **settings: Any) -> Path:
    """A folder of ``weft data supervised``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "examples.jsonl"
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records(form)]
    file.write_text("".join(lines), encoding="utf-8")
    chosen = supervised.SupervisedConfig(form=form, split=SplitConfig(valid=0.1, test=0.1), **settings)  # type: ignore[arg-type]
    supervised.prepare([file], vocab_size, folder / "data", chosen)
    return folder / "data"


def _words(chance: random.Random) -> list[str]:
    return [chance.choice(FILLER) for _ in range(chance.randint(2, 6))]


def _classify(chance: random.Random, number: int) -> dict[str, Any]:
    label = number % 2
    words = [*_words(chance), chance.choice((BAD, GOOD)[label]), *_words(chance)]
    return {"text": " ".join(words), "label": ("负面", "正面")[label]}


def _tag(chance: random.Random, number: int) -> dict[str, Any]:
    text, spans = "", []
    for _ in range(3):
        text += "".join(f"{word} " for word in _words(chance))
        label, name = chance.choice([("人名", chance.choice(NAMES)), ("地名", chance.choice(PLACES))])
        spans.append({"start": len(text), "end": len(text) + len(name), "label": label})
        text += name + " "
    return {"text": text.strip(), "spans": spans}


def _span(chance: random.Random, number: int) -> dict[str, Any]:
    name, place = chance.choice(NAMES), chance.choice(PLACES)
    before, after = "".join(_words(chance)), "".join(_words(chance))
    context = f"{before} {name} 在 {place} {after}"
    wanted = (name, "谁在") if number % 2 else (place, "在哪")
    return {
        "question": wanted[1],
        "context": context,
        "answers": [{"text": wanted[0], "start": context.index(wanted[0])}] if number % 5 else [],
    }


def _pairs(chance: random.Random, number: int) -> dict[str, Any]:
    digits = [chance.randrange(10) for _ in range(chance.randint(2, 6))]
    return {
        "source": " ".join(map(str, digits)),
        "target": "".join("零一二三四五六七八九"[d] for d in digits),
    }


_MAKE = {"classify": _classify, "tag": _tag, "span": _span, "pairs": _pairs}

"""What a sweep says: the advice in a sentence, a table for the console, ``advise.json``, ``advise.html``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.core.chart import Series, line_chart, number
from weft.core.files import write_text_atomic
from weft.core.page import Page, Text, Words
from weft.recipes.advise.candidates import Candidate
from weft.recipes.advise.measure import Measured
from weft.recipes.advise.sweep import Result, Sweep

LONGER = 10
"""The command that is advised trains for so many times the time that a candidate had."""

FIGURES = {
    "classify": Words("accuracy", "准确率"),
    "tag": Words("span F1", "片段 F1"),
    "pairs": Words("loss, nats/token", "损失（纳特/词元）"),
    "text": Words("loss, nats/token", "损失（纳特/词元）"),
}
LIMITS = Words(
    "A small budget favours small models and those that learn fast: with ten times the time or data the "
    "order may change. Repeat the sweep with a larger budget before you decide anything expensive. The "
    "checkpoint of each candidate was chosen on the validation split that the figures are of; one seed was "
    "trained.",
    "预算小，对小模型和学得快的模型有利：时间或数据多十倍，次序可能改变。做代价大的决定之前，请用更大的预算再测一次。"
    "各候选的检查点是在计算这些指标的同一验证集上选的，且只训练了一个随机种子。",
)


@dataclass(frozen=True)
class Advice:
    """``chosen`` of those ``as_good`` as the ``best`` (keys), the sentence, what the floor says, commands."""

    best: str
    as_good: tuple[str, ...]
    chosen: str
    sentence: Words
    floor: Words | None
    commands: tuple[str, ...]


Row = tuple[Candidate, Result, Measured]


def advise(found: Sweep, out: Path, settings: Sequence[str] = ()) -> Advice:
    """The cheapest in use of those whose interval overlaps that of the best."""
    higher = found.subject.task in ("classify", "tag")
    rows = measured(found)
    networks = [row for row in rows if not row[0].floor]
    best = _best(networks, higher)
    as_good = [row for row in networks if _overlaps(row[2], best[2], higher)]
    chosen = min(as_good, key=lambda row: row[2].milliseconds)
    return Advice(
        best=best[0].key,
        as_good=tuple(row[0].key for row in as_good),
        chosen=chosen[0].key,
        sentence=_sentence(found, chosen, best, len(as_good)),
        floor=_floor(found, chosen, [row for row in rows if row[0].floor], higher),
        commands=_commands(found, chosen[0], out, settings),
    )


def measured(found: Sweep) -> list[Row]:
    """The candidates that have figures."""
    pairs = zip(found.candidates, found.results, strict=True)
    return [(one, result, result.measured) for one, result in pairs if result.measured is not None]


def table(found: Sweep) -> list[str]:
    """The lines of the console's table."""
    task = found.subject.task
    head = ["", f"{FIGURES[task].en} [95 %]", "parameters", "tokens/s", "ms/text", "weights"]
    head += ["written F1"] if task == "pairs" else []
    lines = [head, *(_cells(found, *pair) for pair in zip(found.candidates, found.results, strict=True))]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def write(found: Sweep, advice: Advice, out: Path) -> dict[str, Any]:
    """Write ``advise.json`` and ``advise.html`` into ``out``; returns the record."""
    pairs = zip(found.candidates, found.results, strict=True)
    record: dict[str, Any] = {
        "task": found.subject.task,
        "data": str(found.subject.folder),
        "figure": FIGURES[found.subject.task].en,
        "sequence_length": found.subject.length,
        "training_seconds": found.share,
        "seconds": round(found.seconds, 1),
        "candidates": [
            {"name": one.name.en, "floor": one.floor, "settings": one.settings, **asdict(result)}
            for one, result in pairs
        ],
        "advice": asdict(advice),
    }
    write_text_atomic(out / "advise.json", json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    _page(found, advice).write(out / "advise.html")
    return record


def _best(rows: Sequence[Row], higher: bool) -> Row:
    return (max if higher else min)(rows, key=lambda row: row[2].quality.value if row[2].quality else 0.0)


def _overlaps(one: Measured, best: Measured, higher: bool) -> bool:
    assert one.quality and best.quality
    return one.quality.high >= best.quality.low if higher else one.quality.low <= best.quality.high


def _sentence(found: Sweep, chosen: Row, best: Row, as_good: int) -> Words:
    name, value = chosen[0].name, _figure(found.subject.task, chosen[2])
    milliseconds = f"{number(chosen[2].milliseconds)} ms"
    figure = FIGURES[found.subject.task]
    if as_good == 1:
        return Words(
            f"Take {name.en}: with {value} ({figure.en}) it is the best, and no other "
            "interval overlaps its own.",
            f"建议用 {name.zh}：{figure.zh} {value}，为最好，其他候选的区间都不与它重叠。",
        )
    top = _figure(found.subject.task, best[2])
    same = chosen[0] == best[0]
    english = "the best figure as well" if same else f"while {best[0].name.en} has the best figure, {top}"
    chinese = "指标也最好" if same else f"指标最好的是 {best[0].name.zh}（{top}）"
    return Words(
        f"Take {name.en}: of the {as_good} candidates whose intervals overlap that of the best it is the "
        f"cheapest in use ({milliseconds} a text), with {value} ({figure.en}), {english}.",
        f"建议用 {name.zh}：有 {as_good} 个候选的区间与最好者重叠，其中它用起来最省"
        f"（每条文本 {milliseconds}），{figure.zh} {value}；{chinese}。",
    )


def _floor(found: Sweep, chosen: Row, floors: Sequence[Row], higher: bool) -> Words | None:
    """What it means when no network is clearly above the floor; None where the chosen one is."""
    for candidate, _, at in floors:
        name = candidate.name
        if found.subject.task == "pairs":
            if (at.written or 0.0) < (chosen[2].written or 0.0):
                continue
            return Words(
                "What it writes has no more of the wanted terms than a copy of the source: give more "
                "time or data.",
                "它写出的文本与目标相同的词项不比照抄原文多：请增加时间或数据。",
            )
        assert at.quality and chosen[2].quality
        value = _figure(found.subject.task, at)
        if at.quality.low > chosen[2].quality.high:
            return Words(
                f"But {name.en} alone, {value}, is better than that: no network is worth its cost in this "
                "budget; give more time or data.",
                f"但仅用{name.zh}（{value}）就比它好：在这个预算下，神经网络不值得；请增加时间或数据。",
            )
        if at.quality.high >= chosen[2].quality.low:
            return Words(
                f"But {name.en} alone, {value}, is as good as that: a network has yet to show its worth on "
                "this data.",
                f"但仅用{name.zh}（{value}）也一样好：在这份数据上，神经网络的优势还没有显出来。",
            )
    return None


def _commands(found: Sweep, chosen: Candidate, out: Path, settings: Sequence[str]) -> tuple[str, ...]:
    asked = [*found.subject.settings, *chosen.settings, *settings]
    spelled = " ".join(shlex.quote(text) for text in asked)
    seconds = round(LONGER * found.share)
    return (f"weft train {spelled} --budget {seconds}s --out {shlex.quote(str(out / 'longer'))}",)


def _figure(task: str, of: Measured) -> str:
    if of.quality is None:
        return "–"
    if task in ("classify", "tag"):
        return f"{100 * of.quality.value:.2f} %"
    return f"{of.quality.value:.3f}"


def _interval(task: str, of: Measured) -> str:
    if of.quality is None:
        return "–"
    low, high = of.quality.low, of.quality.high
    if task in ("classify", "tag"):
        return f"{100 * of.quality.value:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{of.quality.value:.3f} [{low:.3f}, {high:.3f}]"


def _cells(found: Sweep, candidate: Candidate, result: Result) -> list[str]:
    """A row of the table; a candidate without figures has dashes."""
    of, task = result.measured, found.subject.task
    if of is None:
        return [candidate.name.en, *["–"] * (6 if task == "pairs" else 5)]
    return [
        candidate.name.en,
        _interval(task, of),
        number(float(of.parameters)) if of.parameters else "–",
        f"{result.tokens_per_second:,.0f}" if result.tokens_per_second else "–",
        f"{of.milliseconds:.2f}",
        f"{of.memory_bytes / 1e6:.1f} MB" if of.memory_bytes else "–",
        *([f"{100 * (of.written or 0.0):.1f}"] if task == "pairs" else []),
    ]


def _page(found: Sweep, advice: Advice) -> Page:
    task = found.subject.task
    page = Page(Words("Weft: which architecture?", "Weft：用哪种架构？"))
    page.paragraph(advice.sentence)
    if advice.floor is not None:
        page.paragraph(advice.floor)
    page.charts(*(_chart(found, english) for english in (True, False)))
    page.section(Words("Measured", "测得"))
    head = (
        *(Words("candidate", "候选"), Words(f"{FIGURES[task].en} [95 %]", f"{FIGURES[task].zh} [95 %]")),
        *(Words("parameters", "参数"), Words("tokens/s in training", "训练词元/秒")),
        *(Words("ms a text", "毫秒/条"), Words("weights", "权重")),
        *([Words("F1 of written terms", "所写词项 F1")] if task == "pairs" else []),
    )
    body: list[tuple[Text, ...]] = []
    for candidate, result in zip(found.candidates, found.results, strict=True):
        _, *cells = _cells(found, candidate, result)
        body.append((candidate.name, *cells))
    page.table(body, head, ".nnnnnn")
    for candidate, result in zip(found.candidates, found.results, strict=True):
        if result.failed is not None:
            page.paragraph(f"{candidate.name.en}: {result.failed}", note=True)
    page.section(Words("Train it for longer", "训练更久"))
    page.sample("\n".join(advice.commands))
    page.section(Words("How to read this", "怎样读"))
    seconds, length = f"{found.share:.0f}", found.subject.length
    page.paragraph(
        Words(
            f"Every network learnt the same data for {seconds} s with one seed, in rows of {length} tokens. "
            "Candidates whose intervals overlap count as equally good, and the advice is the one of them "
            "that is cheapest in use. A text is timed alone, the median of a few dozen.",
            f"每个神经网络用同一份数据、同一个种子、每行 {length} 个词元训练 {seconds} 秒。"
            "区间重叠的候选算一样好，建议其中用起来最省的一个。时间是逐条处理几十条文本的中位数。",
        )
    )
    page.paragraph(LIMITS)
    return page


def _chart(found: Sweep, english: bool) -> str:
    """Quality against the time of a text, a point each, its interval upright behind it."""
    task, series = found.subject.task, []
    scale = 100.0 if task in ("classify", "tag") else 1.0
    for colour, (candidate, _, of) in enumerate(measured(found)):
        if of.quality is None:
            continue
        at = max(of.milliseconds, 1e-3)
        ends = [scale * of.quality.low, scale * of.quality.high]
        series.append(Series("", [at, at], ends, colour, faint=True))
        name = candidate.name.en if english else candidate.name.zh
        series.append(Series(name, [at], [scale * of.quality.value], colour))
    figure = FIGURES[task].en if english else FIGURES[task].zh
    return line_chart(
        series,
        x_label="milliseconds a text" if english else "每条文本的毫秒数",
        y_label=figure + (", %" if scale > 1 else ""),
        log_x=True,
    )

"""The answer for people: tables for the console in English or Chinese, and the same as a record."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from weft.core.page import Words
from weft.parallel.planner import explain
from weft.parallel.planner.estimate import TIMES, Prediction
from weft.parallel.planner.hardware import GIB
from weft.parallel.planner.memory import KINDS
from weft.parallel.planner.scaling import Point
from weft.parallel.planner.search import Found

Language = Literal["en", "zh"]
MOST_FAMILIES = 14


def text(found: Found, language: Language = "en", *, prices: bool = False) -> str:
    """The whole answer."""
    parts = [_say(heading(found), language), _source(found, language)]
    if not found.ranked:
        return "\n\n".join([*parts, _families(found, language)])
    parts += [
        _ranking(found, language, prices),
        _by_kind(found, language),
        _reasons(found, language),
        _families(found, language),
    ]
    return "\n\n".join(parts)


def heading(found: Found) -> Words:
    """What was asked."""
    job, cluster = found.job, found.world.cluster
    size = job.config.parameters / 1e9
    amount = f"{size:.2f} B" if size >= 1 else f"{1000 * size:.1f} M"
    return Words(
        f"{amount} parameters on {cluster.describe()}: {job.rows} rows of {job.length} = {job.tokens:,} "
        f"tokens a step, {job.dtype}, {job.optimizer}; {found.tried:,} layouts tried",
        f"{amount} 参数,{cluster.describe()}:每步 {job.rows} 行 × {job.length} = {job.tokens:,} 个词元,"
        f"{job.dtype},{job.optimizer};共试 {found.tried:,} 种方案",
    )


def record(found: Found) -> dict[str, Any]:
    """Everything for programs: the request, the ranking, the reasons."""
    cluster = found.world.cluster
    return {
        "on": cluster.describe(),
        "source": cluster.device.source,
        "parameters": found.job.config.parameters,
        "tokens": found.job.tokens,
        "tried": found.tried,
        "limit_bytes": found.limit,
        "ranked": [_entry(found, prediction) for prediction in found.ranked],
        "why": [{"en": words.en, "zh": words.zh} for words in explain.winner(found)],
        "lost": [_lost(found, index) for index in range(len(found.lost))],
    }


def run_figures(found: Found, prediction: Prediction) -> tuple[float | None, float | None]:
    """(seconds, money) of the whole run; None where its length or the price is not known."""
    if found.job.steps is None:
        return None, None
    seconds = found.job.steps * prediction.step.total
    price = found.world.cluster.price
    return seconds, None if price is None else price * seconds / 3600


def duration(seconds: float) -> str:
    """3.2 h, 4.1 d, 12 min, 30 s."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _entry(found: Found, prediction: Prediction) -> dict[str, Any]:
    seconds, money = run_figures(found, prediction)
    return {**entry(prediction), "run_seconds": seconds, "run_cost": money}


def entry(prediction: Prediction) -> dict[str, Any]:
    """One layout."""
    return {
        "plan": str(prediction.plan),
        "micro_rows": prediction.micro_rows,
        "recompute": prediction.plan.recompute,
        "offload": prediction.plan.offload,
        "memory_bytes": {**prediction.memory.kinds(), "total": prediction.memory.total},
        "host_bytes": prediction.memory.host,
        "step_seconds": {**prediction.step.kinds(), "total": prediction.step.total},
        "tokens_per_second": prediction.tokens_per_second,
        "peak_share": prediction.peak_share,
    }


def one(prediction: Prediction, language: Language = "en") -> str:
    """One layout that the user named."""
    memory = [
        [_say(explain.MEMORY_NAMES[k], language), f"{v / GIB:.2f} GiB"]
        for k, v in prediction.memory.kinds().items()
    ]
    time = [[_say(explain.TIME_NAMES[k], language), duration(v)] for k, v in prediction.step.kinds().items()]
    total = [
        [_say(Words("in all", "合计"), language), f"{prediction.memory.total / GIB:.2f} GiB"],
        [_say(Words("a step", "每步"), language), duration(prediction.step.total)],
    ]
    title = f"{prediction}: {prediction.tokens_per_second:,.0f} tokens/s, {100 * prediction.peak_share:.1f} %"
    return title + "\n" + table(["", ""], [*memory, total[0], *time, total[1]], left=(0,))


def sizes(every: Sequence[Found], language: Language) -> str:
    """The best of each number of processes that ``--on auto`` tried."""
    lines = [_say(Words("by number of processes:", "按进程数:"), language)]
    for found in every:
        best = f"{found.ranked[0]}: {duration(found.ranked[0].step.total)}" if found.ranked else "–"
        lines.append(f"  {found.world.cluster.size}: {best}")
    return "\n".join(lines)


def scaling(points: Sequence[Point], language: Language) -> str:
    """The table of a simulated growth."""
    title = Words(
        "growing (simulated, not run; rows in proportion):", "扩展(模拟,并未实际运行;行数按比例增加):"
    )
    base = points[0].prediction.tokens_per_second / points[0].devices
    rows = [
        [
            f"{p.devices:,}",
            str(p.prediction.plan),
            f"{p.prediction.tokens_per_second:,.0f}",
            f"{100 * p.prediction.peak_share:.1f} %",
            f"{100 * p.prediction.tokens_per_second / p.devices / base:.0f} %",
        ]
        for p in points
    ]
    head = [
        Words("devices", "设备数"), Words("layout", "方案"), Words("tokens/s", "词元/秒"),
        Words("of peak", "峰值占比"), Words("a device", "每设备"),
    ]  # fmt: skip
    return _say(title, language) + "\n" + table([_say(w, language) for w in head], rows, left=(1,))


def point(one: Point) -> dict[str, Any]:
    """One size of a simulated growth."""
    return {"devices": one.devices, "simulated": True, **entry(one.prediction)}


def _lost(found: Found, index: int) -> dict[str, Any]:
    loss = found.lost[index]
    words = explain.lost(found, loss)
    best = None if loss.best is None else str(loss.best)
    return {"family": loss.family, "kind": loss.kind, "best": best, "en": words.en, "zh": words.zh}


def _ranking(found: Found, language: Language, prices: bool) -> str:
    head = [
        Words("#", "#"), Words("layout", "方案"), Words("rows", "微批行数"), Words("GiB/rank", "GiB/进程"),
        Words("step", "每步"), Words("tokens/s", "词元/秒"), Words("of peak", "峰值占比"),
        Words("run", "全程"),
    ]  # fmt: skip
    if prices:
        head.append(Words("cost", "费用"))
    rows = []
    for place, prediction in enumerate(found.ranked, 1):
        seconds, money = run_figures(found, prediction)
        row = [
            str(place),
            str(prediction.plan),
            str(prediction.micro_rows),
            f"{prediction.memory.total / GIB:.2f}",
            duration(prediction.step.total),
            f"{prediction.tokens_per_second:,.0f}",
            f"{100 * prediction.peak_share:.1f} %",
            "–" if seconds is None else duration(seconds),
        ]
        rows.append([*row, "–" if money is None else f"{money:,.0f}"] if prices else row)
    return table([_say(words, language) for words in head], rows, left=(1,))


def _by_kind(found: Found, language: Language) -> str:
    """Memory and time of the best few by kind."""
    few = found.ranked[:5]
    head = ["", *(f"#{place}" for place in range(1, len(few) + 1))]
    memory = [
        [
            _say(explain.MEMORY_NAMES[kind], language) + " GiB",
            *(f"{getattr(p.memory, kind) / GIB:.2f}" for p in few),
        ]
        for kind in KINDS
    ]
    time = [
        [
            _say(explain.TIME_NAMES[kind], language),
            *(duration(getattr(p.step, kind)) if getattr(p.step, kind) else "–" for p in few),
        ]
        for kind in TIMES
    ]
    return table(head, [*memory, *time], left=(0,))


def _reasons(found: Found, language: Language) -> str:
    title = Words("why:", "为什么:")
    return "\n".join([_say(title, language), *("  " + _say(w, language) for w in explain.winner(found))])


def _families(found: Found, language: Language) -> str:
    """Single techniques first, then the best combinations."""
    single = [loss for loss in found.lost if "+" not in loss.family]
    rest = [loss for loss in found.lost if "+" in loss.family]
    shown = single + rest[: MOST_FAMILIES - len(single)]
    title = Words("the other families:", "其他各类方案:")
    lines = [f"  {loss.family}: {_say(explain.lost(found, loss), language)}" for loss in shown]
    more = len(found.lost) - len(shown)
    if more > 0:
        lines.append(
            _say(
                Words(f"  and {more} more combinations, slower still", f"  另有 {more} 种组合,更慢"), language
            )
        )
    return "\n".join([_say(title, language), *lines])


def _source(found: Found, language: Language) -> str:
    source = found.world.cluster.device.source
    words = (
        Words(
            "figures: measured on this machine (weft plan --calibrate)",
            "数据来源:本机实测(weft plan --calibrate)",
        )
        if source == "calibrated"
        else Words(f"figures: {source}; nothing was measured", f"数据来源:{source};未经实测")
    )
    return _say(words, language)


def _say(words: Words, language: Language) -> str:
    return words.zh if language == "zh" else words.en


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """Columns of equal width; those in ``left`` begin at the left, Han characters count as two."""
    widths = [max(_width(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = []
        for i, cell in enumerate(row):
            space = " " * (widths[i] - _width(cell))
            cells.append(cell + space if i in left else space + cell)
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in [head, *rows])


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)

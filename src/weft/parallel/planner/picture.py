"""The answer as one HTML file: step time and memory of the layouts, the pipeline's timeline, scaling."""

from __future__ import annotations

from collections.abc import Sequence

from weft.core.chart import COLOURS, Bar, Series, bar_chart, line_chart
from weft.core.page import Page, Text, Words
from weft.parallel.planner import explain
from weft.parallel.planner.estimate import timeline
from weft.parallel.planner.hardware import GIB
from weft.parallel.planner.report import duration, heading
from weft.parallel.planner.scaling import Point
from weft.parallel.planner.search import Found

_MOST_SPANS = 4000
_KIND_COLOUR = {"F": 0, "B": 1, "I": 1, "W": 2}


def page(found: Found, points: Sequence[Point] = ()) -> Page:
    """The page; ``points`` from :mod:`.scaling`."""
    result = Page(Words("Which parallel technique fits?", "哪种并行方案合适?"))
    result.paragraph(heading(found))
    if found.ranked:
        result.section(Words("The answer", "结论"))
        for words in explain.winner(found):
            result.paragraph(words)
        _times(result, found)
        _memory(result, found)
        _pipeline(result, found)
    result.section(Words("The other families", "其他各类方案"))
    rows = [(loss.family, explain.lost(found, loss)) for loss in found.lost]
    result.table(rows, (Words("family", "类别"), Words("reason", "原因")))
    if points:
        _scaling(result, points)
    return result


def _times(page: Page, found: Found) -> None:
    page.section(Words("Time of a step (foretold)", "每步时间(预测)"))
    bars = [
        Bar(
            f"{p.plan} · {p.micro_rows}",
            p.step.total,
            f"{duration(p.step.total)}, {100 * p.peak_share:.0f} %",
            colour=0 if place == 0 else 1,
        )
        for place, p in enumerate(found.ranked)
    ]
    page.chart(bar_chart(bars, title="step"))
    head = ["", *(f"#{i + 1}" for i in range(min(5, len(found.ranked))))]
    kinds: list[list[Text]] = [
        [explain.TIME_NAMES[kind], *(duration(getattr(p.step, kind)) for p in found.ranked[:5])]
        for kind in explain.TIME_NAMES
    ]
    page.table(kinds, head, "." + "n" * (len(head) - 1))


def _memory(page: Page, found: Found) -> None:
    page.section(Words("Memory of the fullest rank (foretold)", "最满进程的内存(预测)"))
    best = found.ranked[0].memory
    english, chinese = (
        bar_chart(
            [
                Bar(
                    getattr(explain.MEMORY_NAMES[kind], language),
                    value / GIB,
                    f"{value / GIB:.2f} GiB",
                    colour=i,
                )
                for i, (kind, value) in enumerate(best.kinds().items())
            ],
            title="GiB",
        )
        for language in ("en", "zh")
    )
    page.charts(english, chinese)


def _pipeline(page: Page, found: Found) -> None:
    best = next((p for p in found.ranked if p.plan.pp > 1), None)
    if best is None:
        return
    page.section(Words("The pipeline, simulated", "流水线(模拟)"))
    page.paragraph(Words(f"{best}", f"{best}"))
    line = timeline(found.job, best.plan, best.micro_rows, found.world)
    width, height = 700, 18 * best.plan.pp
    scale = width / line.seconds
    boxes = "".join(
        f'<rect x="{start * scale:.1f}" y="{18 * rank + 2}" width="{max((end - start) * scale, 0.3):.1f}" '
        f'height="14" fill="{COLOURS[_KIND_COLOUR[action.kind]]}"/>'
        for rank, action, start, end in line.spans[:_MOST_SPANS]
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>pipeline</title>{boxes}</svg>'
    )
    note = Words(
        "one row a rank; blue forward, orange backward, green gradients of weights; gaps are the bubble",
        "每行一个进程;蓝色前向,橙色反向,绿色权重梯度;空白为空泡",
    )
    page.chart(svg, note)


def _scaling(page: Page, points: Sequence[Point]) -> None:
    page.section(Words("More devices: simulated, not run", "更多设备:模拟结果,并未实际运行"))
    devices = [float(p.devices) for p in points]
    first = points[0]
    base = first.prediction.tokens_per_second / first.devices
    shares = [100 * p.prediction.tokens_per_second / p.devices / base for p in points]
    page.chart(
        line_chart(
            [Series("tokens/s", devices, [p.prediction.tokens_per_second for p in points])],
            x_label="devices", y_label="tokens/s (simulated)", log_x=True, log_y=True,
        )
    )  # fmt: skip
    rows = [
        (
            f"{p.devices:,}",
            str(p.prediction.plan),
            f"{p.prediction.tokens_per_second:,.0f}",
            f"{100 * p.prediction.peak_share:.0f} %",
            f"{share:.0f} %",
        )
        for p, share in zip(points, shares, strict=True)
    ]
    head = (
        Words("devices", "设备数"), Words("layout", "方案"), Words("tokens/s", "词元/秒"),
        Words("of peak", "峰值占比"), Words("of the smallest, a device", "相对最小规模(每设备)"),
    )  # fmt: skip
    page.table(rows, head, "n.nnn")

"""Charts and pages are well-formed, escaped, and sound for every number."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from weft.core.chart import Bar, Series, bar_chart, line_chart, number, standalone, ticks
from weft.core.page import Page, Words

SVG = "{http://www.w3.org/2000/svg}"


def lines(**options: object) -> ElementTree.Element:
    series = options.pop("series", [Series("a", [1, 2, 3], [3.0, 1.0, 2.0])])
    return ElementTree.fromstring(line_chart(series, x_label="step 步", y_label="loss <&>", **options))


def polylines(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
        for line in root.iter(f"{SVG}polyline")
    ]


def test_points_keep_their_order_and_stay_inside() -> None:
    (points,) = polylines(lines())
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[0][1] < points[2][1] < points[1][1], "larger values stand higher"
    assert all(0 <= x <= 720 and 0 <= y <= 280 for x, y in points)
    text = "".join(lines().itertext())
    assert "loss <&>" in text
    assert "步" in text


def test_a_log_axis_makes_factors_equal_distances() -> None:
    root = lines(series=[Series("a", [1, 10, 100, 0, -1], [1e-3, 1e-2, 1e-1, 1, 1])], log_x=True, log_y=True)
    ((a, b, c),) = polylines(root)
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2)
    assert b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.2)


def test_a_chart_as_a_file_has_a_colour_for_each_scheme() -> None:
    root = ElementTree.fromstring(
        standalone(line_chart([Series("a", [1, 2], [1.0, 2.0])], x_label="x", y_label="y"))
    )
    (style,) = root.findall(f"{SVG}style")
    assert "prefers-color-scheme:dark" in (style.text or "")


def test_numbers_that_are_not_finite_are_left_out() -> None:
    root = lines(series=[Series("a", [1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0])])
    assert len(polylines(root)[0]) == 2
    assert "nan" not in ElementTree.tostring(root, "unicode").lower()


@pytest.mark.parametrize("values", [[], [math.nan], [0.0], [5.0, 5.0], [-3.0, -3.0], [1e-30, 1e30]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_ranges_make_a_chart(values: list[float], log: bool) -> None:
    root = lines(series=[Series("a", range(len(values)), values)], log_y=log)
    drawn = ElementTree.tostring(root, "unicode")
    assert "nan" not in drawn.lower() and "inf" not in drawn.lower()


def test_long_lines_are_thinned_and_keep_their_spike() -> None:
    values = [1.0] * 100_000
    values[77_777] = 50.0
    (points,) = polylines(lines(series=[Series("a", range(100_000), values)]))
    assert len(points) <= 900
    assert min(y for _, y in points) == pytest.approx(44, abs=0.1)


def test_a_legend_names_each_line_but_the_faint() -> None:
    series = [
        Series("训练", [1, 2], [1, 2]),
        Series("valid", [1, 2], [2, 1], colour=1),
        Series("raw", [1, 2], [1, 1], faint=True),
    ]
    text = "".join(lines(series=series).itertext())
    assert "训练" in text
    assert "valid" in text
    assert "raw" not in text


def test_bars_are_proportional_and_labelled() -> None:
    bars = [Bar("一 <a>", 10, "10", 8, 12), Bar("b", 5, "5"), Bar("c", math.nan), Bar("d", -4)]
    root = ElementTree.fromstring(bar_chart(bars, title="t"))
    widths = [float(rect.get("width", "")) for rect in root.iter(f"{SVG}rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert widths[2:] == [1, 1]
    assert "一 <a>" in "".join(root.itertext())
    assert bar_chart([], title="none").endswith("</svg>")


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0, 1, False), (3.2, 3.3, False), (-5, 5, False), (1, 1000, True), (2.1, 2.4, True), (1e-9, 1e9, True)],
)
def test_ticks_are_few_and_inside(low: float, high: float, log: bool) -> None:
    found = ticks(low, high, log)
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def test_numbers_are_short() -> None:
    spelt = [number(v) for v in (0, 0.05, 1.5, 250, 20_000, 3e6, 2.5e9, 2e-5)]
    assert spelt == ["0", "0.05", "1.5", "250", "20k", "3M", "2.5G", "2e-05"]


class Tags(HTMLParser):
    """Checks that tags close in order, and keeps what could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.suspects: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "input"):
            self.open.append(tag)
        self.suspects += [tag] if tag in ("script", "link", "img", "iframe", "object") else []
        self.suspects += [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_escapes_everything_and_loads_nothing(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&\x00\ud800"
    page = Page(Words(evil, "报告"))
    page.section(Words("Data", "数据"))
    page.paragraph(evil, note=True)
    page.table([(evil, Words("a", "甲"))], head=("x", "y"), numeric=".n")
    page.facts({evil: 1})
    page.chart(bar_chart([Bar(evil.replace("\ud800", ""), 1)], title="t"), evil)
    page.charts("<svg></svg>", "<svg></svg>")
    page.sample("\n  今天😀\n", evil)
    page.folded(evil, evil)
    page.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert (tags.open, tags.suspects) == ([], [])
    assert "alert(1)&lt;/script&gt;" in text
    assert "<script" not in text
    assert "\n  今天😀\n" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_a_page_holds_both_languages() -> None:
    page = Page(Words("Report", "报告"))
    text = page.render()
    assert '<span lang="en">Report</span><span lang="zh">报告</span>' in text
    assert text.count('type="radio"') == 2

"""The report of a data folder: one HTML file about what was kept, what was dropped, and why."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weft.core import manifest
from weft.core.chart import Bar, bar_chart
from weft.core.errors import UsageError
from weft.core.page import Page, Text, Words
from weft.data import documents, kinds
from weft.data.clusters import Clusters
from weft.data.survey import Drawn, Survey, survey, total
from weft.data.tally import OTHER, Count
from weft.recipes.data_words import PERSONAL, REASONS, explain

Record = dict[str, Any]

_ROWS = 20
_CHART_WIDTH = 560
_SPLITS = {
    "train": Words("train", "训练"),
    "valid": Words("validation", "验证"),
    "test": Words("test", "测试"),
}


def write_data_report(data_folder: Path, out_html: Path, samples: int = 5, seed: int = 0) -> Record:
    """Write ``out_html`` about ``data_folder`` and return its figures.

    ``samples`` documents of each reason are shown, drawn with ``seed``. What the folder does not have
    (shards, personal data, a mixture) is left out. Raises UsageError for impossible numbers, DataError
    when there are no finished documents or a file is damaged.
    """
    if samples < 0 or not 0 <= seed < 1 << 64:
        raise UsageError("--samples and --seed must be whole numbers from 0 on.")
    record = documents.record(data_folder)
    whole = manifest.read(data_folder) or record
    figures = {**record["figures"], **whole["figures"]}
    found = survey(data_folder, samples, seed=seed)
    page = Page(Words("Weft data report", "Weft 数据报告"))
    page.paragraph(f"{data_folder.absolute().name}, weft {record['weft']}, {record['written']}", note=True)
    _summary(page, found, figures)
    _funnel(page, found)
    _lines(page, figures.get("lines"))
    _languages(page, found, figures.get("mixed_languages"))
    _lengths(page, found)
    _folders(page, found)
    _clusters(page, found.clusters)
    _personal(page, figures.get("personal"), found.kept)
    _mixture(page, figures.get("mixture"))
    _samples(page, found, samples)
    _configuration(page, whole, figures)
    page.write(out_html)
    return _record(found)


def _summary(page: Page, found: Survey, figures: Mapping[str, Any]) -> None:
    dropped = total(found.dropped.values())
    seen = total([found.kept, dropped])
    rows: list[tuple[Text, ...]] = [
        (Words("read", "读入"), *_count(seen)),
        (Words("kept", "保留"), *_count(found.kept)),
        *((Words(f"– {w.en}", f"– {w.zh}"), *_count(found.splits[name])) for name, w in _SPLITS.items()),
        (Words("dropped", "剔除"), *_count(dropped)),
    ]
    page.section(Words("Summary", "概要"))
    page.table(rows, ("", Words("documents", "文档数"), Words("size", "大小")), ".nn")
    tokens = total(found.tokens.values())
    if tokens.tokens:
        vocabulary = figures.get("shards", {}).get("vocab_size", 0)
        page.paragraph(
            Words(
                f"{tokens.tokens:,} tokens of a vocabulary of {vocabulary:,}: "
                f"{tokens.bytes / tokens.tokens:.2f} bytes a token.",
                f"共 {tokens.tokens:,} 个词元，词表大小 {vocabulary:,}，"
                f"平均每个词元 {tokens.bytes / tokens.tokens:.2f} 字节。",
            )
        )
    recorded = figures.get("in", {}).get("documents", seen.documents)
    if recorded != seen.documents:
        page.paragraph(
            Words(
                f"The manifest counted {recorded:,} documents, the files here hold {seen.documents:,}: "
                "some were changed or deleted later.",
                f"清单记录了 {recorded:,} 篇文档，这里的文件共有 {seen.documents:,} 篇：之后有改动或删除。",
            )
        )


def _funnel(page: Page, found: Survey) -> None:
    page.section(Words("Funnel", "漏斗"))
    kept, seen = found.kept, total([found.kept, *found.dropped.values()])

    def draw(language: str) -> str:
        read, out, stays = {"en": ("read", "dropped", "kept"), "zh": ("读入", "剔除", "保留")}[language]
        rows = [(read, seen, 3), *((f"{out}: {name}", count, 1) for name, count in found.dropped.items())]
        bars = [
            Bar(label, c.documents, f"{c.documents:,} · {_size(c.bytes)}", colour=k) for label, c, k in rows
        ]
        bars.append(Bar(stays, kept.documents, f"{kept.documents:,} · {_size(kept.bytes)}", colour=0))
        return bar_chart(bars, title={"en": "documents", "zh": "文档数"}[language], width=_CHART_WIDTH)

    page.charts(draw("en"), draw("zh"))
    page.paragraph(
        Words("Bars show documents; the size is that of their text.", "条形为文档数，其后为文本大小。"),
        note=True,
    )
    if found.dropped:
        rows = [
            (name, *_count(count), _share(count.documents, seen.documents), explain(REASONS, name))
            for name, count in found.dropped.items()
        ]
        head = (Words("reason", "原因"), Words("documents", "文档数"), Words("size", "大小"))
        page.table(rows, (*head, Words("of all", "占比"), Words("what it means", "含义")), ".nnn")


def _lines(page: Page, found: Any) -> None:
    """``found``: by rule, the lines that were removed from documents that stayed."""
    if not isinstance(found, Mapping) or not found:
        return
    page.section(Words("Lines removed", "剔除的行"))
    rows = [(rule, _spell(count)) for rule, count in sorted(found.items(), key=lambda i: -_number(i[1]))]
    page.table(rows, (Words("rule", "规则"), Words("lines", "行数")), ".n")
    page.paragraph(
        Words("From documents that were otherwise kept.", "这些行所在的文档其余部分仍保留。"), note=True
    )


def _languages(page: Page, found: Survey, mixed: Any) -> None:
    page.section(Words("Languages", "语言"))
    rows = []
    for name, count in _first(found.languages):
        tokens = found.tokens_by_language.get(name)
        rows.append((name, *_count(count), _share(count.bytes, found.kept.bytes), *_tokens(tokens)))
    page.table(rows, (Words("language", "语言"), *_COLUMNS), ".nnnnn")
    page.paragraph(
        Words(
            "Of kept documents. Code has the name of its language, text its language or main script.",
            "仅统计保留的文档。代码为编程语言名，文本为其语言或主要文字。",
        ),
        note=True,
    )
    if mixed:
        page.paragraph(
            Words(f"{mixed:,} kept documents mix languages.", f"保留的文档中有 {mixed:,} 篇混有多种语言。")
        )


def _lengths(page: Page, found: Survey) -> None:
    used = found.lengths.nonzero()[0]
    if not len(used):
        return
    page.section(Words("Lengths", "长度"))
    bins = range(int(used[0]), int(used[-1]) + 1)
    bars = [Bar(_bin(k), int(found.lengths[k]), f"{int(found.lengths[k]):,}") for k in bins]
    page.charts(
        bar_chart(bars, title="kept documents by length", width=_CHART_WIDTH),
        bar_chart(bars, title="保留文档的长度分布", width=_CHART_WIDTH),
    )
    page.paragraph(Words("Kept documents by bytes of UTF-8.", "保留的文档，按 UTF-8 字节数。"), note=True)


def _folders(page: Page, found: Survey) -> None:
    page.section(Words("Sources", "来源"))
    names = [*found.folders, *(name for name in found.folders_dropped if name not in found.folders)]
    rows = []
    for name in names[:_ROWS]:
        kept, lost = found.folders.get(name, Count(0, 0)), found.folders_dropped.get(name, Count(0, 0))
        share = _share(lost.documents, lost.documents + kept.documents)
        rows.append((name, *_count(kept), share, *_tokens(found.tokens.get(name))))
    head = (Words("kept", "保留"), Words("size", "大小"), Words("dropped", "剔除率"), *_COLUMNS[3:])
    page.table(rows, (Words("folder", "目录"), *head), ".nnnnn")
    more = len(names) - len(rows)
    if more > 0:
        page.paragraph(
            Words(f"{more:,} smaller ones are not shown.", f"另有 {more:,} 个较小的未列出。"), note=True
        )


def _clusters(page: Page, found: Clusters) -> None:
    page.section(Words("Duplicates", "重复"))
    count, number = f"{found.duplicates:,}", f"{found.number:,}"
    page.paragraph(
        Words(
            f"{count} documents were dropped as duplicates; they belong to {number} clusters.",
            f"共有 {count} 篇文档作为重复被剔除，分属 {number} 个簇。",
        )
    )
    if found.largest:
        page.paragraph(Words("The largest, with their kept document:", "最大的簇及其保留的文档："))
    for cluster in found.largest:
        lines = [f"{source}  ({reason})" for source, reason in cluster.members]
        more = cluster.size - 1 - len(lines)
        lines += [f"… + {more:,}"] if more > 0 else []
        missing = Words("(kept elsewhere, or dropped later)", "（保留在别处，或后来被剔除）")
        kept = Words(cluster.kept, cluster.kept) if cluster.kept else missing
        size = f"{cluster.size:,} × "
        page.folded(Words(size + kept.en, size + kept.zh), "\n".join(lines))


def _personal(page: Page, found: Any, kept: Count) -> None:
    """``found``: by kind, how many were found, or a table of such counts."""
    if not isinstance(found, Mapping) or not found:
        return
    page.section(Words("Personal data", "个人信息"))
    tables = {
        kind: value if isinstance(value, Mapping) else {"found": value} for kind, value in found.items()
    }
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    rows = []
    for kind, table in sorted(tables.items(), key=lambda item: -_number(next(iter(item[1].values()), 0))):
        per_million = 1e6 * _number(next(iter(table.values()), 0)) / max(1, kept.bytes)
        counts = (_spell(table.get(name, 0)) for name in names)
        rows.append((kind, explain(PERSONAL, kind), *counts, f"{per_million:.2f}"))
    head = (Words("kind", "种类"), "", *(_PERSONAL_HEADS.get(name, name) for name in names))
    per = Words("per MB kept", "每 MB 保留文本")
    page.table(rows, (*head, per), ".." + "n" * (len(names) + 1))


def _mixture(page: Page, found: Any) -> None:
    """``found``: by source its share, or a table of figures."""
    if not isinstance(found, Mapping) or not found:
        return
    page.section(Words("Mixture", "配比"))
    tables = {
        name: value if isinstance(value, Mapping) else {"weight": value} for name, value in found.items()
    }
    names = list(dict.fromkeys(key for table in tables.values() for key in table))
    rows = [(name, *(_spell(table.get(key, "")) for key in names)) for name, table in tables.items()]
    page.table(rows, (Words("source", "来源"), *names), "." + "n" * len(names))


def _samples(page: Page, found: Survey, wanted: int) -> None:
    if not wanted:
        return
    page.section(Words("Samples", "样例"))
    page.paragraph(
        Words(
            "Drawn at random with a fixed seed; long texts are cut. Click to open.",
            "以固定种子随机抽取，长文本已截断。点击展开。",
        ),
        note=True,
    )
    page.paragraph(Words("Kept:", "保留："))
    for drawn in found.samples_kept:
        _sample(page, drawn)
    for reason, chosen in found.samples_dropped.items():
        words = explain(REASONS, reason)
        more = Words(f" ({words.en})", f"（{words.zh}）") if words.en else words
        page.paragraph(Words(f"Dropped: {reason}{more.en}", f"剔除：{reason}{more.zh}"))
        for drawn in chosen:
            _sample(page, drawn)


def _sample(page: Page, drawn: Drawn) -> None:
    facts = [drawn.source, drawn.language, _size(drawn.bytes), drawn.value]
    summary = " · ".join(fact for fact in facts if fact)
    if drawn.text is None:
        page.folded(summary, "– (its text was never read; 文本未读取)")
        return
    cut = len(drawn.text.encode("utf-8")) < drawn.bytes
    page.folded(summary, drawn.text + ("…" if cut else ""), wrap=drawn.kind != kinds.CODE)


def _configuration(page: Page, whole: Record, figures: Mapping[str, Any]) -> None:
    page.section(Words("Configuration", "配置"))
    seconds = figures.get("seconds", {})
    if seconds:
        rows = [(name, f"{value:,.1f} s") for name, value in seconds.items()]
        page.table(rows, (Words("stage", "阶段"), Words("time", "用时")), ".n")
    sources = _sources(whole["config"])
    if sources:
        page.paragraph(Words(f"Read from: {', '.join(sources)}", f"读自：{'、'.join(sources)}"))
    page.folded(Words("whole configuration", "完整配置"), whole["config"])


def _sources(config: str) -> Sequence[str]:
    try:
        return [str(source) for source in tomllib.loads(config).get("sources", [])]
    except tomllib.TOMLDecodeError:
        return []


def _record(found: Survey) -> Record:
    tables = ("splits", "languages", "dropped", "folders", "folders_dropped", "tokens", "tokens_by_language")
    counts = {name: {key: asdict(c) for key, c in getattr(found, name).items()} for name in tables}
    lengths = {_bin(int(k)): int(found.lengths[k]) for k in found.lengths.nonzero()[0]}
    return {"kept": asdict(found.kept), **counts, "lengths": lengths, "clusters": asdict(found.clusters)}


_COLUMNS = (
    Words("documents", "文档数"),
    Words("size", "大小"),
    Words("of kept", "占保留"),
    Words("tokens", "词元数"),
    Words("bytes/token", "字节/词元"),
)
_PERSONAL_HEADS = {
    "documents": Words("documents", "文档数"),
    "found": Words("found", "发现数"),
    "masked": Words("masked", "已遮盖"),
    "replaced": Words("replaced", "已替换"),
    "dropped": Words("dropped", "已剔除"),
    "kept": Words("kept", "保留"),
}


def _first(counts: Mapping[str, Count]) -> list[tuple[str, Count]]:
    """The largest, with all the rest in one row."""
    listed = list(counts.items())
    if len(listed) <= _ROWS:
        return listed
    rest = total(count for _, count in listed[_ROWS - 1 :])
    return [*((name, count) for name, count in listed[: _ROWS - 1]), (OTHER, rest)]


def _count(count: Count) -> tuple[str, str]:
    return f"{count.documents:,}", _size(count.bytes)


def _tokens(count: Count | None) -> tuple[str, str]:
    if count is None or not count.tokens:
        return "–", "–"
    return f"{count.tokens:,}", f"{count.bytes / count.tokens:.2f}"


def _share(part: float, whole: float) -> str:
    if not whole:
        return "–"
    return "< 0.1 %" if 0 < part < 0.0005 * whole else f"{100 * part / whole:.1f} %"


def _bin(k: int) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    return f"{1 << k % 10}–{2 << k % 10} {units[k // 10]}"


def _size(count: float) -> str:
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f} B"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _spell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)

"""The report of a run: one HTML file with its curves, figures, samples and configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.core import manifest
from weft.core.chart import Bar, bar_chart, number
from weft.core.errors import DataError
from weft.core.hardware import probe
from weft.core.page import Page, Text, Words
from weft.recipes.curves import (
    LANGUAGES,
    LOSS,
    curve,
    figure_words,
    loss_chart,
    read_metrics,
    validation_figures,
)

Record = dict[str, Any]

_NAMES = {
    "model": Words("this model", "本模型"),
    "lzma": Words("LZMA after the training text", "LZMA（已读训练文本）"),
    "ngram": Words("n-gram model", "n 元语法模型"),
}
_SPLITS = {
    "train": Words("kept: train", "保留：训练"),
    "valid": Words("kept: valid", "保留：验证"),
    "test": Words("kept: test", "保留：测试"),
}


def write_report(folder: Path, out_html: Path) -> None:
    """Write what ``folder`` holds as ``out_html``: a demo's folder, or a training run alone.

    Looked for: ``run/metrics.jsonl`` (or ``metrics.jsonl``) with the run's ``manifest.json``,
    ``derived.json`` and ``resolved.toml`` beside it; ``data/manifest.json``; ``eval.json``;
    ``samples.json``. What is missing is left out. Raises DataError when there is nothing to report or a
    file is damaged.
    """
    run = folder / "run" if (folder / "run").is_dir() else folder
    metrics = read_metrics(run / "metrics.jsonl")
    evaluation, samples = _json(folder / "eval.json"), _json(folder / "samples.json")
    data = manifest.read(folder / "data")
    if not metrics and evaluation is None and data is None:
        raise DataError(f"{folder} holds no run to report (no metrics, data or evaluation); check the path.")
    trained = manifest.read(run) if run != folder or metrics else None
    page = Page(Words("Weft run report", "Weft 运行报告"))
    page.paragraph(f"{folder.name}, weft {(trained or data or {}).get('weft', '')}", note=True)
    _summary(page, trained, evaluation, data)
    if evaluation is not None:
        _evaluation(page, evaluation)
    if samples:
        _samples(page, samples)
    if metrics:
        _training(page, metrics)
    if data is not None:
        _funnel(page, data["figures"])
    _configuration(page, run, trained, data)
    page.write(out_html)


def _summary(page: Page, trained: Record | None, evaluation: Record | None, data: Record | None) -> None:
    rows: list[tuple[Words, Text]] = []
    if data is not None:
        kept = data["figures"]["kept"]
        count, size = f"{kept['documents']:,}", _bytes(kept["bytes"])
        rows.append((Words("text", "文本"), Words(f"{count} documents, {size}", f"{count} 篇，{size}")))
    if trained is not None:
        figures = trained["figures"]
        for key, words, spell in (
            ("parameters", Words("parameters", "参数量"), number),
            ("tokens", Words("tokens trained on", "训练词元数"), number),
            ("seconds", Words("training time", "训练时间"), _time),
            ("tokens_per_second", Words("tokens per second", "每秒词元数"), number),
            ("peak_share", Words("share of measured matrix peak", "实测矩阵峰值占比"), _percent),
            ("validation_loss", Words("validation loss, nats per token", "验证损失（奈特/词元）"), number),
            ("memory_bytes", Words("peak memory", "内存峰值"), _bytes),
        ):
            if figures.get(key) is not None:
                rows.append((words, spell(figures[key])))
    if evaluation is not None:
        for name, found in evaluation["bits_per_byte"].items():
            words = _NAMES[name]
            label = Words(f"bits per byte, {words.en}", f"每字节比特数，{words.zh}")
            rows.append((label, f"{found['value']:.3f}"))
    if rows:
        page.section(Words("Summary", "概要"))
        page.table(rows, numeric=".n")


def _evaluation(page: Page, evaluation: Record) -> None:
    page.section(Words("Evaluation on held-out text", "在未见文本上的评测"))
    count, size = f"{evaluation['documents']:,}", _bytes(evaluation["bytes"])
    page.paragraph(
        Words(
            f"Bits per byte on {count} documents ({size}) of the {evaluation['split']} split, lower is "
            "better; the line over each bar is the 95 % bootstrap interval over documents.",
            f"在 {evaluation['split']} 集的 {count} 篇文档（{size}）上的每字节比特数，越低越好；"
            "横线为按文档自助抽样的 95% 区间。",
        )
    )
    _bars(page, evaluation["bits_per_byte"], "{:.3f}", Words("bits per byte", "每字节比特数"))
    parse = evaluation.get("parse")
    if parse:
        page.paragraph(
            Words(
                f"Share of {parse['functions']} generated functions that parse as Python, higher is better.",
                f"{parse['functions']} 个生成函数中能通过 Python 语法解析的比例，越高越好。",
            )
        )
        shares = {name: parse[name] for name in ("model", "ngram")}
        _bars(page, shares, "{:.0%}", Words("functions that parse", "可解析的函数"))
        for name in ("model", "ngram"):
            text = "\n\n".join(sample.rstrip() for sample in parse.get(f"{name}_samples", ()))
            words = _NAMES[name]
            page.folded(Words(f"functions by {words.en}", f"生成的函数：{words.zh}"), text)


def _bars(page: Page, estimates: dict[str, Record], form: str, title: Words) -> None:
    def draw(language: str) -> str:
        bars = [
            Bar(
                getattr(_NAMES[name], language),
                found["value"],
                form.format(found["value"]),
                found["low"],
                found["high"],
                0 if name == "model" else 1,
            )
            for name, found in estimates.items()
        ]
        return bar_chart(bars, title=getattr(title, language))

    page.charts(draw("en"), draw("zh"))


def _samples(page: Page, samples: Sequence[Record]) -> None:
    page.section(Words("Samples", "样例"))
    page.paragraph(
        Words("The prompt is bold; the model wrote the rest.", "粗体为提示，其余由模型写出。"), note=True
    )
    for sample in samples:
        page.sample(sample["text"], sample.get("prompt", ""))


def _training(page: Page, metrics: Sequence[Record]) -> None:
    page.section(Words("Training", "训练"))
    page.charts(loss_chart(metrics, LOSS, "en"), loss_chart(metrics, LOSS, "zh"))

    def show(name: str, words: Words, *, smooth: bool = False, log: bool = False) -> None:
        if any(record.get(name) is not None for record in metrics):
            charts = (curve(metrics, name, words, code, smooth=smooth, log=log) for code in LANGUAGES)
            page.charts(*charts)

    for name in validation_figures(metrics):
        show(name, figure_words(name))
    show("learning_rate", Words("learning rate", "学习率"))
    show("gradient_norm", Words("gradient norm before clipping", "裁剪前的梯度范数"), smooth=True, log=True)
    show("tokens_per_second", Words("tokens per second", "每秒词元数"), smooth=True)


def _funnel(page: Page, figures: Record) -> None:
    page.section(Words("Data", "数据"))
    seen, kept = figures["in"], figures["kept"]
    page.paragraph(
        Words(
            f"{seen['documents']:,} documents ({_bytes(seen['bytes'])}) read, {kept['documents']:,} "
            f"({_bytes(kept['bytes'])}) kept; every dropped one has its reason.",
            f"读入 {seen['documents']:,} 篇文档（{_bytes(seen['bytes'])}），保留 {kept['documents']:,} 篇"
            f"（{_bytes(kept['bytes'])}）；每篇被剔除的文档都有原因。",
        )
    )

    def draw(language: str) -> str:
        total = {"en": "read", "zh": "读入"}[language]
        bars = [_count_bar(total, seen, 3)]
        for reason, count in figures["dropped"].items():
            label = {"en": "dropped", "zh": "剔除"}[language]
            bars.append(_count_bar(f"{label}: {reason}", count, 1))
        bars += [_count_bar(getattr(_SPLITS[s], language), c, 0) for s, c in figures["splits"].items()]
        return bar_chart(bars, title={"en": "data funnel", "zh": "数据漏斗"}[language])

    page.charts(draw("en"), draw("zh"))


def _count_bar(label: str, count: Record, colour: int) -> Bar:
    return Bar(label, count["bytes"], f"{count['documents']:,} · {_bytes(count['bytes'])}", colour=colour)


def _configuration(page: Page, run: Path, trained: Record | None, data: Record | None) -> None:
    page.section(Words("Machine and configuration", "机器与配置"))
    page.paragraph(probe().describe())
    derived = _json(run / "derived.json")
    if derived:
        page.paragraph(Words("Derived from the time budget:", "由时间预算推出："))
        page.table([(note["name"], str(note["value"]), note["reason"]) for note in derived])
    if data is not None:
        page.folded(Words("data configuration", "数据配置"), data["config"])
    resolved = run / "resolved.toml"
    if resolved.is_file():
        page.folded(Words("training configuration", "训练配置"), resolved.read_text(encoding="utf-8"))
    elif trained is not None:
        page.folded(Words("training configuration", "训练配置"), trained["config"])


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise DataError(f"{file} is damaged; delete it and run its command again.") from None


def _bytes(count: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"

"""The page of one evaluation: figures beside baselines, confusion, calibration, worst errors, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.core.chart import Series, line_chart
from weft.core.page import Page, Text, Words

Record = dict[str, Any]

TASKS = {
    "classification": Words("classification", "文本分类"),
    "sentiment": Words("sentiment", "情感分析"),
    "entities": Words("named entities", "命名实体识别"),
    "roles": Words("semantic roles", "语义角色标注"),
    "answers": Words("question answering", "阅读理解"),
    "translation": Words("translation", "翻译"),
    "summary": Words("summaries", "摘要"),
}
FIGURES = {
    "accuracy": Words("accuracy", "准确率"),
    "macro_f1": Words("macro-F1", "宏平均 F1"),
    "ece": Words("calibration error (ECE)", "校准误差（ECE）"),
    "ece_before": Words("ECE without temperature", "ECE（未做温度缩放）"),
    "f1": Words("F1", "F1"),
    "precision": Words("precision", "精确率"),
    "recall": Words("recall", "召回率"),
    "exact": Words("exact match", "完全匹配"),
    "bleu": Words("BLEU", "BLEU"),
    "chrf++": Words("chrF++", "chrF++"),
    "bleu_lowercase": Words("BLEU, lower case", "BLEU（小写）"),
    "rouge1": Words("ROUGE-1", "ROUGE-1"),
    "rouge2": Words("ROUGE-2", "ROUGE-2"),
    "rougeL": Words("ROUGE-L", "ROUGE-L"),
    "loss": Words("loss, nats a token of the answers", "损失：回答的每词元奈特数"),
    "bits_per_byte": Words("bits a byte of the answers", "回答的每字节比特数"),
    "win_rate": Words("win rate (half of the ties)", "胜率（平局计一半）"),
    "wins": Words("wins", "胜"),
    "ties": Words("ties", "平"),
    "losses": Words("losses", "负"),
}
BASELINES = {
    "majority": Words("majority", "多数类"),
    "naive Bayes": Words("naive Bayes", "朴素贝叶斯"),
    "memory": Words("memory of forms", "词形记忆"),
    "overlap": Words("word overlap", "词重叠"),
    "copy": Words("copy", "照抄原文"),
    "dictionary": Words("dictionary", "词典直译"),
}
_CHOSEN = {
    "lead": Words("first {} sentences", "前 {} 句"),
    "longest": Words("longest {} lines", "最长 {} 行"),
}


def write_task_report(record: Record, out_html: Path) -> None:
    """Write the page of a record of :func:`weft.recipes.task_eval.evaluate_task`; texts are escaped."""
    page = Page(Words("Weft task evaluation", "Weft 任务评测"))
    page.paragraph(f"{Path(record['checkpoint']).name} · {record['items']:,}", note=True)
    _summary(page, record)
    figures_table(page, Words("Figures", "指标"), record["figures"])
    fewer = record.get("deduplicated")
    if fewer:
        count = f"{fewer['items']:,}"
        figures_table(
            page,
            Words(
                f"De-duplicated: the {count} items that training does not have",
                f"去重：不在训练集中的 {count} 项",
            ),
            fewer["figures"],
        )
    _labels(page, record)
    _confusion(page, record)
    _reliability(page, record)
    _rows(page, Words("The worst errors", "最严重的错误"), record["worst"])
    _rows(page, Words("Examples, drawn at random", "随机抽取的样例"), record["examples"])
    _left_out(page, record)
    page.write(out_html)


def spell(value: float, unit: str) -> str:
    """A figure for people: shares are in percent."""
    return f"{value:,.4g}" if unit == "plain" else f"{value * (100 if unit == 'share' else 1):.2f}"


def interval(estimate: Mapping[str, float], unit: str) -> str:
    """A figure and its 95 % interval."""
    low, high = spell(estimate["low"], unit), spell(estimate["high"], unit)
    return f"{spell(estimate['value'], unit)} [{low}, {high}]"


def baseline_name(name: str) -> Words:
    """A baseline as people call it."""
    kind, _, count = name.partition("-")
    if kind in _CHOSEN and count:
        words = _CHOSEN[kind]
        return Words(words.en.format(count), words.zh.format(count))
    return BASELINES.get(name, Words(name, name))


def _summary(page: Page, record: Record) -> None:
    facts: list[tuple[Text, Text]] = [(Words("task", "任务"), TASKS[record["task"]])]
    facts.append((Words("items scored", "计分条数"), f"{record['items']:,}"))
    facts.append((Words("training items of the baselines", "基线的训练条数"), f"{record['train_items']:,}"))
    facts.append((Words("items that training has too", "同时出现在训练集中"), f"{record['in_training']:,}"))
    if "reliability" in record:
        facts.append((Words("temperature", "温度"), f"{record['temperature']:.3f}"))
    for name, signature in record.get("signatures", {}).items():
        facts.append((FIGURES[name], signature))
    for name, print_ in record["files"].items():
        facts.append((f"sha256 {Path(name).name}", print_[:16]))
    page.section(Words("Summary", "概要"))
    page.table(facts)
    page.paragraph(
        Words(
            "A test split is used once, at the end: what is chosen by it is no longer measured by it.",
            "测试集只在最后使用一次：若据它做过选择，它就不再能衡量结果。",
        ),
        note=True,
    )


def figures_table(page: Page, heading: Words, rows: Sequence[Record]) -> None:
    """A section of the figures of :func:`weft.eval.standing.standing`."""
    page.section(heading)
    names = list(dict.fromkeys(name for row in rows for name in row["baselines"]))
    head: list[Text] = ["", Words("model", "模型"), *map(baseline_name, names)]
    head += [Words("model − best", "模型 − 最佳基线")] if names else []
    page.table([_figure(row, names)[: len(head)] for row in rows], head, "." + "n" * (len(head) - 1))
    en, zh = "With 95 % bootstrap intervals over items", "附按条目自助法的 95 % 区间"
    if names:
        en = f"{en}; the last column compares with the best baseline, item by item"
        zh = f"{zh}；末列与最佳基线成对比较"
    if any(row["lower"] for row in rows):
        en, zh = f"{en}. Errors and losses: less is better", f"{zh}。误差与损失越小越好"
    page.paragraph(Words(f"{en}.", f"{zh}。"), note=True)


def _figure(row: Record, names: Sequence[str]) -> list[Text]:
    found = [
        interval(row["baselines"][name], row["unit"]) if name in row["baselines"] else "–" for name in names
    ]
    compared = row.get("model_minus_best")
    last = interval(compared["difference"], row["unit"]) if compared else "–"
    name: str = row["name"]
    return [FIGURES.get(name, name), interval(row["model"], row["unit"]), *found, last]


def _labels(page: Page, record: Record) -> None:
    if not record["by_label"]:
        return
    spans = record.get("spans")
    measure = (
        Words("F1 of each label", "各标签的 F1") if spans else Words("Recall of each label", "各标签的召回率")
    )
    page.section(measure)
    names = list(dict.fromkeys(name for row in record["by_label"] for name in row["baselines"]))
    more: list[Text] = []
    if spans:
        more = [Words("gold", "标准数"), Words("precision", "精确率"), Words("recall", "召回率")]
    rows: list[list[Text]] = []
    for row in record["by_label"]:
        cells: list[Text] = [row["name"], *_figure(row, names)[1:-1]]
        one = (spans or {}).get(row["name"])
        if one:
            cells += [f"{one['support']:,}", spell(one["precision"], "share"), spell(one["recall"], "share")]
        rows.append(cells)
    head: list[Text] = [Words("label", "标签"), Words("model", "模型"), *map(baseline_name, names), *more]
    page.table(rows, head, "." + "n" * (len(head) - 1))


def _confusion(page: Page, record: Record) -> None:
    if "confusion" not in record:
        return
    page.section(Words("Confusion", "混淆矩阵"))
    labels = record["labels"]
    rows = [[label, *(f"{n:,}" for n in row)] for label, row in zip(labels, record["confusion"], strict=True)]
    page.table(rows, [Words("gold ↓ answer →", "标准 ↓ 回答 →"), *labels], "." + "n" * len(labels))


def _reliability(page: Page, record: Record) -> None:
    bins = record.get("reliability")
    if not bins:
        return
    page.section(Words("Calibration", "校准"))
    used = [n for n, count in enumerate(bins["count"]) if count]
    sure, right = ([bins[name][n] for n in used] for name in ("confidence", "accuracy"))

    def draw(language: str) -> str:
        names = {"en": ("answers", "ideal"), "zh": ("回答", "理想")}[language]
        axes = {"en": ("confidence", "accuracy"), "zh": ("置信度", "准确率")}[language]
        lines = [Series(names[0], sure, right), Series(names[1], [0.0, 1.0], [0.0, 1.0], colour=1)]
        return line_chart(lines, x_label=axes[0], y_label=axes[1], height=320)

    page.charts(draw("en"), draw("zh"))
    rows = [
        (f"{bins['confidence'][n]:.3f}", f"{bins['accuracy'][n]:.3f}", f"{bins['count'][n]:,}") for n in used
    ]
    head = (Words("confidence", "置信度"), Words("accuracy", "准确率"), Words("items", "条数"))
    page.table(rows, head, "nnn")


def _rows(page: Page, heading: Words, rows: Sequence[Record]) -> None:
    page.section(heading)
    if not rows:
        page.paragraph(Words("None.", "无。"))
    for row in rows:
        sure = "" if row["confidence"] is None else f" · p = {row['confidence']:.3f}"
        why = f" · {row['reason']}" if row["reason"] else ""
        page.sample(row["given"], f"{row['where']} · {100 * row['quality']:.0f} %{sure}{why}\n")
        page.table([(Words("gold", "标准答案"), row["gold"]), (Words("answer", "模型回答"), row["found"])])


def _left_out(page: Page, record: Record) -> None:
    if not record["dropped"] and not record["notes"]:
        return
    page.section(Words("Left out, cut or not asked", "剔除、截断与未提问"))
    rows: list[list[Text]] = [
        [reason, f"{count:,}", Words("no gold answer: not scored", "没有标准答案：不计分")]
        for reason, count in record["dropped"].items()
    ]
    cut = Words("answered by its beginning", "只据开头部分作答")
    wrong = Words("not asked: counts as wrong", "未提问：计为错误")
    rows += [
        [reason, f"{count:,}", cut if reason == "cut_to_window" else wrong]
        for reason, count in record["notes"].items()
    ]
    page.table(
        rows, (Words("reason", "原因"), Words("rows", "行数"), Words("what became of it", "处理")), ".n."
    )
    if record["dropped_rows"]:
        page.table([(where, reason, value[:200]) for where, reason, value in record["dropped_rows"]])

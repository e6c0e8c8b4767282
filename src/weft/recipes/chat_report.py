"""The page of one evaluation of a chat model, its table for terminals, and its answers as JSON Lines."""

from __future__ import annotations

import json
import random
from pathlib import Path

from weft.core.files import write_text_atomic
from weft.core.page import Page, Text, Words
from weft.recipes.chat_eval import ChatEvaluation, Record
from weft.recipes.task_report import figures_table

SHOWN = 20
"""Answers on the page, drawn at random; the file beside it has all of them."""

NOTES = {
    "answers_cut_off": Words("answers cut off by the limit of tokens", "被词元上限截断的回答"),
    "prompts_too_long": Words("questions without room for an answer: empty", "问题过长而无回答：记为空"),
    "answers_beyond_the_context": Words(
        "answers that the context does not hold: no loss", "超出上下文、不计损失的回答"
    ),
}
VERDICTS = {
    "wins": Words("wins", "胜"),
    "ties": Words("ties", "平"),
    "losses": Words("losses", "负"),
    "equal_answers": Words("equal answers (ties)", "两个回答相同（平）"),
    "orders_disagree": Words("the two orders disagree (ties)", "两种顺序的判定不一致（平）"),
    "judged_once": Words("judged in one order only", "只按一种顺序判定"),
}
WINNERS = {
    "first": Words("this model won", "本模型胜"),
    "second": Words("the other won", "对方胜"),
    "tie": Words("tie", "平"),
    None: Words("not judged", "未判定"),
}


def write_answers(found: ChatEvaluation, file: Path) -> None:
    """One line a conversation: ``prompt``, ``first`` (this model), ``second``, ``winner``, ``reference``."""
    write_text_atomic(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows()))


def write_chat_report(found: ChatEvaluation, answers: Path, out_html: Path) -> None:
    """Write the page; texts are escaped."""
    record = found.record
    page = Page(Words("Weft chat evaluation", "Weft 对话评测"))
    _summary(page, record, answers)
    figures_table(page, Words("Loss of the answers", "回答的损失"), record["figures"])
    if "verdicts" in record:
        figures_table(page, Words("Verdicts", "判定"), record["verdicts"]["figures"])
        page.table([(words, f"{record['verdicts'][name]:,}") for name, words in VERDICTS.items()], (), ".n")
    _answers(page, found)
    page.write(out_html)


def _summary(page: Page, record: Record, answers: Path) -> None:
    other: Text = record["against"]
    if other == "reference":
        other = Words("the answers in the files", "文件中的回答")
    facts: list[tuple[Text, Text]] = [
        (Words("model", "模型"), record["checkpoint"]),
        (Words("against", "对比"), other),
        (Words("conversations", "对话数"), f"{record['items']:,}"),
        (Words("all answers", "全部回答"), answers.name),
    ]
    if "verdicts" in record:
        facts.append((Words("judge", "裁判"), record["verdicts"]["judge"]))
    facts += [(f"sha256 {Path(name).name}", print_[:16]) for name, print_ in record["files"].items()]
    facts += [(name, f"{value:,}") for name, value in record["settings"].items()]
    for who, notes in record["notes"].items():
        for name, count in notes.items():
            words = NOTES[name]
            facts.append((Words(f"{who}: {words.en}", f"{who}：{words.zh}"), f"{count:,}"))
    page.section(Words("Summary", "概要"))
    page.table(facts)


def _answers(page: Page, found: ChatEvaluation) -> None:
    rows = found.rows()
    page.section(Words("Answers, drawn at random", "随机抽取的回答"))
    for place in sorted(random.Random(found.how.seed).sample(range(len(rows)), min(SHOWN, len(rows)))):
        row = rows[place]
        page.sample(row["prompt"], f"{row['where']}\n")
        said: list[tuple[Text, Text]] = [
            (Words("this model", "本模型"), row["first"]),
            (Words("the other", "对方"), row["second"]),
        ]
        if row["second"] != row["reference"]:
            said.append((Words("reference", "参考回答"), row["reference"]))
        page.table([*said, (Words("verdict", "判定"), WINNERS[row["winner"]])])

"""Sentences, lead-k and longest-k in both languages."""

from __future__ import annotations

import pytest

from weft.core.errors import DataError, UsageError
from weft.eval.baselines.lead import first_lines, lead, longest_lines, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'It rose 3.5 percent. Why? "Nobody knows." End',
            ["It rose 3.5 percent.", "Why?", '"Nobody knows."', "End"],
        ),
        (
            "Mr. Smith of the U.S. Army met J. Doe. They left!",
            ["Mr. Smith of the U.S. Army met J. Doe.", "They left!"],
        ),
        ("Well... yes", ["Well...", "yes"]),
        ("see weft.org/a?b=1 now. ok", ["see weft.org/a?b=1 now.", "ok"]),
        ("今天下雨。他说：“走吧！”我们走了？！好", ["今天下雨。", "他说：“走吧！”", "我们走了？！", "好"]),
        ("好吗?好!涨了3.5%。GPT-4出来了", ["好吗?", "好!", "涨了3.5%。", "GPT-4出来了"]),
        ("标题\n\n第一句，第二句。", ["标题", "第一句，第二句。"]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_lead() -> None:
    assert lead("One. Two. Three. Four.") == "One.\nTwo.\nThree."
    assert lead("第一。第二。", 1) == "第一。"
    assert lead("Only one", 3) == "Only one"


def test_lines_of_dialogues() -> None:
    dialogue = "Ann: hi\r\n\r\nBob: where are you? I wait.\r\nAnn: on my way\r\n小李：好\n"
    assert first_lines(dialogue, 2) == "Ann: hi\nBob: where are you? I wait."
    assert longest_lines(dialogue, 2) == "Bob: where are you? I wait.\nAnn: on my way"
    assert longest_lines("甲：好\n乙：行\n丙：我明天去", 2) == "丙：我明天去\n甲：好"


def test_bad_input() -> None:
    for summary in (lead, first_lines, longest_lines):
        with pytest.raises(DataError, match="blank text"):
            summary(" \n")
        with pytest.raises(UsageError, match="0 sentences"):
            summary("a", 0)

"""Verdicts in both orders, and judges that are files: functions, and verdicts already made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from weft.core.errors import DataError, UsageError
from weft.eval.judges import PythonJudge
from weft.eval.judging import Pair, VerdictFile, verdicts


def pair(number: int, first: str, second: str) -> Pair:
    prompt = f"问题 {number}"
    return Pair(f"chats.jsonl#{number}", [{"role": "user", "content": prompt}], prompt, first, second)


PAIRS = [pair(0, "long 回答", "kurz"), pair(1, "a", "bb"), pair(2, "same", "same"), pair(3, "xx", "yy")]


def judged_by(function: Callable[[str, str], float]) -> Callable[[Sequence[Pair]], list[float | None]]:
    return lambda pairs: [function(one.first, one.second) for one in pairs]


def test_wins_ties_and_losses_do_not_depend_on_the_order() -> None:
    found = verdicts(judged_by(lambda first, second: len(first) - len(second)), PAIRS)
    assert found.values.tolist() == [1, -1, 0, 0]
    assert (found.equal, found.disagreed, found.once) == (1, 0, 0)
    rows = {row["name"]: row["model"] for row in found.figures()}
    assert rows["win_rate"]["value"] == pytest.approx(0.5)
    assert [rows[name]["value"] for name in ("wins", "ties", "losses")] == [0.25, 0.5, 0.25]
    assert rows["wins"]["low"] <= 0.25 <= rows["wins"]["high"] < 1
    turned = verdicts(
        judged_by(lambda first, second: len(first) - len(second)), [one.turned() for one in PAIRS]
    )
    assert turned.values.tolist() == [-1, 1, 0, 0]


def test_a_judge_that_likes_what_it_reads_first_decides_nothing() -> None:
    found = verdicts(judged_by(lambda first, second: 0.3), PAIRS)
    assert found.values.tolist() == [0] * 4 and found.disagreed == 3
    # A tie one way and a win the other way disagree too.
    half = verdicts(judged_by(lambda first, second: float(first == "xx")), PAIRS[3:])
    assert half.values.tolist() == [0] and half.disagreed == 1


def test_many_wins_have_a_narrow_interval() -> None:
    many = [pair(number, "better", "no") for number in range(80)]
    many += [pair(number, "no", "better") for number in range(80, 100)]
    found = verdicts(judged_by(lambda first, second: len(first) - len(second)), many)
    rate = next(row["model"] for row in found.figures() if row["name"] == "win_rate")
    assert rate["value"] == pytest.approx(0.8)
    # About 1.96 standard errors of a share of 0.8 among 100.
    assert rate["low"] == pytest.approx(0.72, abs=0.02) and rate["high"] == pytest.approx(0.88, abs=0.02)
    assert found.figures() == found.figures() != found.figures(seed=1)


def python(folder: Path, text: str) -> PythonJudge:
    file = folder / "judge.py"
    file.write_text(text, encoding="utf-8")
    return PythonJudge(file)


def test_a_function_of_a_file(tmp_path: Path) -> None:
    judge = python(
        tmp_path,
        "import math\nTABLE = {'a': 1}\n"
        "def judge(prompt, first, second):\n"
        "    assert prompt.startswith('问题')\n"
        "    return TABLE.get(first, 0) - TABLE.get(second, 0)\n",
    )
    assert verdicts(judge, PAIRS).values.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def judge(prompt, first, second:\n", "cannot be run (SyntaxError"),
        ("import nothing_of_this_name\n", "cannot be run (ModuleNotFoundError"),
        ("def judges(prompt, first, second):\n    return 0\n", "has no function judge(prompt,"),
        ("judge = 7\n", "has no function judge"),
        ("def judge(prompt, first, second):\n    return 'first'\n", "returned 'first' for chats.jsonl#0"),
        ("def judge(prompt, first, second):\n    return None\n", "returned None"),
        ("def judge(prompt, first, second):\n    return True\n", "returned True"),
        ("def judge(prompt, first, second):\n    return float('nan')\n", "returned nan"),
        ("def judge(prompt, first, second):\n    return 1 / 0\n", "failed on chats.jsonl#0 (ZeroDiv"),
        ("def judge(prompt):\n    return 1\n", "failed on chats.jsonl#0 (TypeError"),
    ],
)
def test_functions_that_are_none(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as told:
        python(tmp_path, text)(PAIRS)
    assert words in str(told.value) and "\n" not in str(told.value)


def verdict_file(folder: Path, *records: object) -> Path:
    file = folder / "verdicts.jsonl"
    file.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in records), encoding="utf-8")
    return file


def verdict(one: Pair, winner: str | None) -> dict[str, str | None]:
    return {"prompt": one.prompt, "first": one.first, "second": one.second, "winner": winner}


def test_verdicts_already_made(tmp_path: Path) -> None:
    first, second, _, last = PAIRS
    file = verdict_file(
        tmp_path,
        verdict(first, "second"),
        # The other way round, and by three people, of whom two agree.
        *(verdict(second.turned(), winner) for winner in ("first", "tie", "first")),
        # Both orders, and they disagree.
        {**verdict(last, "first"), "note": "more fields are of no matter"},
        verdict(last.turned(), "first"),
        verdict(first.turned(), None),
    )
    found = verdicts(VerdictFile(file), PAIRS)
    assert found.values.tolist() == [-1, -1, 0, 0]
    assert (found.equal, found.disagreed, found.once) == (1, 1, 2)


def test_verdicts_that_do_not_cover_a_pair(tmp_path: Path) -> None:
    file = verdict_file(tmp_path, verdict(PAIRS[0], "first"), verdict(PAIRS[1], None))
    with pytest.raises(DataError, match=r"2 of 3 pairs have no verdict, the first of them chats.jsonl#1"):
        verdicts(VerdictFile(file), PAIRS)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "p", "first": "a", "second": "b", "winner": "a"}, "must be first, second or tie"),
        ({"prompt": "p", "first": "a", "second": 7, "winner": "tie"}, "must be first, second or tie"),
        ({"prompt": "p", "first": "a", "winner": "tie"}, "line 1 is no verdict"),
        (["first"], "line 1 is no verdict"),
        ({"prompt": "p", "first": "a", "second": "b", "winner": None}, "holds no verdicts"),
    ],
)
def test_verdicts_that_are_none(record: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        VerdictFile(verdict_file(tmp_path, record))
    with pytest.raises(DataError, match="cannot be read"):
        VerdictFile(tmp_path / "missing.jsonl")

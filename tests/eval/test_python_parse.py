"""Headers, the end of a body, and what counts as parsing."""

from __future__ import annotations

import pytest

from weft.core.errors import DataError
from weft.eval.metrics.python_parse import body, function_headers, parse_share, parses

SOURCE = '''
import os


@decorated
def top(a, b: int = 1) -> str:
    """问候。"""
    return a


class C:
    async def method(
        self,
        x,
    ):
        # 注释
        def inner():
            return 1
        return inner


def one_line(): return 1
'''


def test_headers_are_the_lines_up_to_the_colon() -> None:
    found = function_headers([SOURCE, "not python ("], 10)
    assert set(found) == {
        "def top(a, b: int = 1) -> str:\n",
        "def inner():\n",
        "async def method(\n    self,\n    x,\n):\n",
    }
    assert function_headers([SOURCE], 10) == function_headers(["x = 1", SOURCE], 10) == found
    assert function_headers([SOURCE], 1) == found[:1]
    assert function_headers(["今天天气很好。"], 10) == []


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("    return 1\n\ndef g():\n    pass\n", "    return 1\n\n"),
        ("    a = 1\n    retu", "    a = 1\n"),
        ("    a = 1", ""),
        ("return 1\n", ""),
        ("", ""),
        ("    return '今天'\nx", "    return '今天'\n"),
    ],
)
def test_body_ends_at_the_first_dedent_or_the_last_whole_line(completion: str, kept: str) -> None:
    assert body(completion) == kept


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("    return 1\n", True),
        ("    return (1\n", False),
        ("", False),
        ("    # nothing\n", False),
        ("return 1\n", False),
        ("    x = 1\n  y = 2\n", False),
        ("    s = '\\d'\n", True),
        ("    x = '\0'\n", False),
        ("    return " + "(" * 5000 + "\n", False),
    ],
)
def test_parses(completion: str, right: bool) -> None:
    assert parses("def f(x):\n", completion) is right


def test_share_counts_pairs() -> None:
    assert parse_share(["def f():\n", "def g():\n"], ["    pass\n", "pass\n"]) == (1, 2)
    with pytest.raises(DataError):
        parse_share(["def f():\n"], [])

"""A rule: a pattern, what else must hold, and where it can begin."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from weft.data.personal.marks import Marks, Places

Check = Callable[[re.Match[str]], int]
"""The end of the span, at most that of the match, or 0 where the match is none after all."""

WORD = r"[0-9A-Za-z]"
# \b is no border between a Han character and a letter (but is with re.ASCII, which patterns of words have),
# and knows nothing of numbers with points in them.
BEFORE_NUMBER = rf"(?<![0-9A-Za-z_$¥€£])(?<![0-9][.,:])(?<!{WORD}[-_])(?<![A-Za-z]/)"
AFTER_NUMBER = rf"(?![0-9A-Za-z_%])(?![.,:][0-9])(?!-{WORD})"


@dataclass(frozen=True)
class Rule:
    """``pattern`` is tried at each character of the folded text; every match that ``check`` allows counts.

    ``starts`` gives the characters of many texts at which that can succeed; it may give more.
    """

    kind: str
    pattern: re.Pattern[str]
    starts: Callable[[Marks], Places]
    check: Check = re.Match.end


def before(match: re.Match[str], characters: int, lines: int = 1) -> str:
    """What stands before the match, at most so many characters, on so many lines with its own."""
    context = match.string[max(0, match.start() - characters) : match.start()]
    return "\n".join(context.rsplit("\n", lines)[-lines:])


def digits_of(match: re.Match[str]) -> str:
    """The digits of the match without what separates them."""
    return "".join(re.findall("[0-9]", match.group()))

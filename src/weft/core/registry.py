"""Look-up by name, with the nearest right name in the error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from weft.core.errors import UsageError

T = TypeVar("T")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name most similar to ``name``, or None when nothing is close."""
    # What is so much longer cannot be close, and to find that out takes seconds where it has megabytes.
    known = [each for each in names if len(name) <= 3 * len(each)]
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5) if known else []
    return found[0] if found else None


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """``table[name]``; an unknown name raises UsageError that suggests the nearest one."""
    if name in table:
        return table[name]
    guess = nearest(name, table)
    hint = f"did you mean {guess!r}?" if guess else f"choose one of: {', '.join(sorted(table))}."
    raise UsageError(f"There is no {kind} named {name!r}; {hint}")

"""How large a regular expression becomes when its counted repetitions are written out."""

from __future__ import annotations

import re

_COUNTED = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_MOST_DIGITS = 9


def expanded(pattern: str) -> int:
    """Characters of ``pattern`` with every ``{m,n}`` written out n times, also where groups nest.

    ``(ab){3}`` is 12 with its parentheses. Compilers write them out, so this bounds their work. It is an
    estimate that serves any dialect, and texts that hold regular expressions among other things.
    """
    sizes = [0]
    last = 0
    place = 0
    while place < len(pattern):
        counted = _COUNTED.match(pattern, place)
        if counted and (counted[1] or counted[2]):
            # A number too long to read is as good as endless.
            counts = [10**_MOST_DIGITS if len(n) > _MOST_DIGITS else int(n) for n in counted.groups() if n]
            sizes[-1] += last * max(0, max(counts) - 1)
            last *= max(counts)
            place = counted.end()
            continue
        character = pattern[place]
        if character == "(":
            sizes.append(0)
        elif character == ")" and len(sizes) > 1:
            last = sizes.pop() + 2
            sizes[-1] += last
        else:
            if character == "\\":
                place += 1
            last = 1
            sizes[-1] += last
        place += 1
    return sum(sizes)

"""How much work the ``multipleOf`` of JSON schemas are for a compiler. No torch here."""

from __future__ import annotations

import math
import re
import sys
from decimal import Decimal

_ESCAPED = re.compile(r"\\u00([4-7][0-9a-fA-F])")
_MULTIPLE_OF = re.compile(r'"multipleOf"\s*:\s*([+-]?[0-9][0-9.eE+-]*)')
_MOST_DIGITS = 25


def remainders(text: str) -> int:
    """About how many states the automata of all ``multipleOf`` in a text have that take long to visit.

    A compiler visits a state for each remainder, once more for each zero at the end of the divisor (though
    zeros alone are no work), and where ``allOf`` joins several, those of their least common multiple: so this
    bounds its work. Fractions count as multiples of the finest one. It serves schemas and texts that hold
    them among other things; what is no number there is left to the compiler to refuse.
    """
    # In JSON a letter of a name may be written as its number.
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    values = {value for found in _MULTIPLE_OF.findall(plain) if (value := _number(found))}
    if Decimal(math.inf) in values:
        return sys.maxsize
    finest = min((int(value.as_tuple().exponent) for value in values), default=0)
    whole = {int(value.scaleb(-finest)) for value in values}
    return sum(map(_visited, whole | {math.lcm(*whole)}))


def _visited(divisor: int) -> int:
    zeros = 0
    while divisor % 10 == 0:
        divisor, zeros = divisor // 10, zeros + 1
    return divisor * (1 + zeros)


def _number(text: str) -> Decimal:
    """Its absolute value in the fewest digits; infinity for one of too many to be worked on, 0 for none."""
    try:
        value = abs(Decimal(text)).normalize()
    except ArithmeticError:
        return Decimal(0)
    digits, exponent = value.as_tuple()[1:]
    wide = not isinstance(exponent, int) or len(digits) + abs(exponent) > _MOST_DIGITS
    return Decimal(math.inf) if wide else value

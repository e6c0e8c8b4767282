"""Check digits of card numbers, Chinese resident ids and bank accounts, and the entropy of a string."""

from __future__ import annotations

import math
from collections import Counter

_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_RESIDENT_CHECKS = "10X98765432"


def luhn_valid(digits: str) -> bool:
    """ISO/IEC 7812: every second digit from the right counts double, and the sum is a multiple of ten."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) << (place & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def resident_check(digits: str) -> str:
    """The 18th character of a resident id with these 17 digits (GB 11643, ISO 7064 mod 11-2)."""
    weighted = sum(int(digit) * weight for digit, weight in zip(digits, _RESIDENT_WEIGHTS, strict=True))
    return _RESIDENT_CHECKS[weighted % 11]


def iban_valid(account: str) -> bool:
    """ISO 7064 mod 97-10 on letters and digits without spaces."""
    moved = account[4:] + account[:4]
    return int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1


def entropy(text: str) -> float:
    """Bits a character, from the frequencies in the text itself; 0 for an empty one."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)

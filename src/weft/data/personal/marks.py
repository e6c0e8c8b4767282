"""Where in many texts a pattern can begin at all, by arithmetic on arrays: ``re`` sees little of clean text.

Every set of starts may hold too many places, never too few; the patterns themselves decide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.data.personal.fold import HAN_NUMERAL, NUMBER_SIGN, PROVINCE, Folded

Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MIN_DIGITS = 7
"""No number of a person, card or telephone has fewer digits."""
_GAP = 3
_LONG = 16


def _among(letters: bytes) -> Mask:
    table = np.zeros(256, np.bool_)
    table[list(letters)] = True
    return table


_SEPARATOR = _among(b" -.()/")
_ALPHANUMERIC = _among(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_UPPER = _among(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NUMERAL = _among(b"0123456789") | _among(bytes([HAN_NUMERAL]))


@dataclass(frozen=True)
class Runs:
    """Runs [R] of one class of characters: the index of the first, and of the one behind the last."""

    begins: Places
    ends: Places

    def where(self, chosen: Mask) -> Runs:
        """The runs that a mask [R] keeps."""
        return Runs(self.begins[chosen], self.ends[chosen])


class Marks:
    """Places in the joined text of a ``Folded``; each set is made when a rule first asks for it."""

    def __init__(self, folded: Folded) -> None:
        # Padded at both ends, so that a look to the side needs no test for the border.
        self._pad = 8
        self.classes = np.pad(folded.classes, self._pad, constant_values=ord("\n"))
        self.bytes = self.classes.tobytes()

    def found(self, places: Places | list[int]) -> Places:
        """Indices in the texts of places in the padded array."""
        return np.asarray(places, np.int64) - self._pad

    def at(self, letter: int) -> Places:
        """The places of one class of character."""
        return np.flatnonzero(self.classes == letter)

    def looks(self, places: Places, offset: int, table: Mask) -> Mask:
        """Whether the character ``offset`` beside each place is in the table."""
        return table[self.classes[places + offset]]

    @functools.cached_property
    def digits(self) -> Runs:
        """Runs of digits."""
        # Bytes below "0" wrap round to large numbers.
        return _runs(np.flatnonzero((self.classes - np.uint8(48)) < 10))

    @functools.cached_property
    def numbers(self) -> Runs:
        """Runs of digits from which at least MIN_DIGITS digits follow with few separators between them."""
        begins, ends = self.digits.begins, self.digits.ends
        linked = self._linked()
        total = np.concatenate([[0], np.cumsum(ends - begins)])
        last = np.where(linked, 0, np.arange(len(begins)))
        # The next run at which a chain ends, seen from the right.
        last = np.minimum.accumulate(np.where(linked, len(begins), last)[::-1])[::-1]
        return self.digits.where(total[last + 1] - total[:-1] >= MIN_DIGITS)

    def _linked(self) -> Mask:
        """For each run of digits whether the next one follows behind separators only."""
        begins, ends = self.digits.begins, self.digits.ends
        linked = np.zeros(len(begins), np.bool_)
        if len(begins) < 2:
            return linked
        gaps = begins[1:] - ends[:-1]
        close = gaps <= _GAP
        for offset in range(_GAP):
            inside = gaps > offset
            close &= ~inside | self.looks(ends[:-1], offset, _SEPARATOR)
        linked[:-1] = close
        return linked

    @functools.cached_property
    def tokens(self) -> Runs:
        """Runs of 16 or more letters, digits, ``_`` and ``-`` with a digit."""
        return self._long_runs(_ALPHANUMERIC | _among(b"_-"))

    @functools.cached_property
    def values(self) -> Runs:
        """The same with ``+`` and ``/``, which base 64 has."""
        return self._long_runs(_ALPHANUMERIC | _among(b"_-+/"))

    def _long_runs(self, table: Mask) -> Runs:
        # Five times as fast as table[self.classes].
        full = np.frombuffer(self.bytes.translate(table.tobytes()), np.bool_)
        width = 1
        # After each round a true means that this and the next 2, 4, 8, 16 characters are inside.
        while width < _LONG:
            full = full[:-width] & full[width:]
            width *= 2
        places = np.flatnonzero(full)
        runs = _runs(places)
        runs = Runs(runs.begins, runs.ends + _LONG - 1)
        first = np.searchsorted(self.digits.begins, runs.begins, side="right")
        ends = np.append(self.digits.ends, 0)
        # A run of digits that began before, or one that begins inside.
        begun = (first > 0) & (ends[first - 1] > runs.begins)
        following = np.append(self.digits.begins, np.iinfo(np.int64).max)[first] < runs.ends
        return runs.where(begun | following)


def _runs(places: Places) -> Runs:
    if not len(places):
        return Runs(places, places)
    breaks = np.flatnonzero(np.diff(places) > 1)
    begins = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.concatenate([breaks, [len(places) - 1]])] + 1
    return Runs(begins, ends)


def numbers(first: bytes, shortest: int = 1, longest: int = 40) -> Callable[[Marks], Places]:
    """Starts of long numbers whose first character is one of ``first``: a digit, ``+`` or ``(``.

    Where it is a digit, ``shortest`` to ``longest`` digits stand before the first separator.
    """
    return functools.partial(_numbers, first=first, shortest=shortest, longest=longest)


def _numbers(marks: Marks, first: bytes, shortest: int, longest: int) -> Places:
    lengths = marks.numbers.ends - marks.numbers.begins
    plain = marks.numbers.begins[(lengths >= shortest) & (lengths <= longest)]
    plain = plain[~marks.looks(plain, -1, _ALPHANUMERIC) & marks.looks(plain, 0, _among(first))]
    return marks.found(np.concatenate([plain, *_signed(marks, marks.numbers.begins, first)]))


def _signed(marks: Marks, begins: Places, first: bytes) -> list[Places]:
    signs = _among(bytes(set(first) & set(b"+(")))
    return [begins[marks.looks(begins, offset, signs)] + offset for offset in (-1, -2)]


def announced_numbers(marks: Marks) -> Places:
    """Long numbers with room for a word between them and the digit before: not the cells of a table."""
    runs = marks.numbers
    earlier = np.concatenate([[-2], marks.digits.ends])[np.searchsorted(marks.digits.ends, runs.begins)]
    begins = runs.begins[runs.begins - earlier >= 2]
    return marks.found(np.concatenate([begins, *_signed(marks, begins, b"+(")]))


def lettered_numbers(marks: Marks) -> Places:
    """Runs of seven to nine digits, and of as many behind one or two capitals."""
    lengths = marks.numbers.ends - marks.numbers.begins
    begins = marks.numbers.begins[(lengths >= MIN_DIGITS) & (lengths <= 9)]
    one = begins[marks.looks(begins, -1, _UPPER)]
    two = one[marks.looks(one, -2, _UPPER)]
    return marks.found(np.concatenate([begins, one - 1, two - 2]))


def dotted(marks: Marks) -> Places:
    """Runs of digits that three more follow, with a dot between each."""
    begins, ends = marks.digits.begins, marks.digits.ends
    if len(begins) < 4:
        return marks.found([])
    linked = (begins[1:] - ends[:-1] == 1) & marks.looks(ends[:-1], 0, _among(b"."))
    return marks.found(begins[:-3][linked[:-2] & linked[1:-1] & linked[2:]])


def colons(marks: Marks) -> Places:
    """Beginnings of runs of hexadecimal digits and colons in which two colons are near each other."""
    places = marks.at(ord(":"))
    near = places[:-1][np.diff(places) <= 5]
    return marks.found(sorted({_walk_back(marks.bytes, int(place), _HEXADECIMAL, 5) for place in near}))


_HEXADECIMAL = b"0123456789abcdefABCDEF:"


def pairs(marks: Marks) -> Places:
    """Two places before a colon or hyphen that four more follow, each three after the last."""
    found = []
    for letter in b":-":
        places = marks.at(letter)
        if len(places) >= 5:
            found.append(places[:-4][places[4:] - places[:-4] == 12] - 2)
    places = np.concatenate([*found, np.zeros(0, np.int64)])
    return marks.found(places[places >= 2])


def mailboxes(marks: Marks) -> Places:
    """Beginnings of words in the run of letters, digits and signs before each ``@``."""
    places = marks.at(ord("@"))
    places = places[marks.looks(places, -1, _among(_LOCAL)) & marks.looks(places, 1, _ALPHANUMERIC)]
    found = []
    for place in places.tolist():
        begin = _walk_back(marks.bytes, place, _LOCAL, 65)
        inside = _ALPHANUMERIC[marks.classes[begin - 1 : place]]
        found += (begin + np.flatnonzero(inside[1:] & ~inside[:-1])).tolist()
    return marks.found(found)


_LOCAL = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._%+-"


def credentials(marks: Marks) -> Places:
    """Places behind ``://`` with an ``@`` in reach."""
    places = marks.at(ord("@"))
    found = set()
    for place in places[marks.looks(places, 1, _HOST) & ~marks.looks(places, -1, _SPACE)].tolist():
        scheme = marks.bytes.rfind(b"://", max(0, place - 200), place)
        if scheme >= 0:
            found.add(scheme + 3)
    return marks.found(sorted(found))


_HOST = _ALPHANUMERIC | _among(b"[")
_SPACE = _among(b" \t\n")


def accounts(marks: Marks) -> Places:
    """Two letters and two digits that begin a word."""
    begins = marks.digits.begins[marks.digits.ends - marks.digits.begins >= 2]
    begins = begins[marks.looks(begins, -1, _ALPHANUMERIC) & marks.looks(begins, -2, _ALPHANUMERIC)]
    return marks.found(begins[~marks.looks(begins, -3, _ALPHANUMERIC)] - 2)


def plates(marks: Marks) -> Places:
    """The short name of a province before a capital."""
    places = marks.at(PROVINCE)
    return marks.found(places[marks.looks(places, 1, _UPPER)])


def blocks(marks: Marks) -> Places:
    """``-----BEGIN``."""
    found, place = [], marks.bytes.find(b"-----BEGIN ")
    while place >= 0:
        found.append(place)
        place = marks.bytes.find(b"-----BEGIN ", place + 1)
    return marks.found(found)


def tokens(marks: Marks) -> Places:
    """Long unbroken runs with a digit."""
    return marks.found(marks.tokens.begins)


def values(marks: Marks) -> Places:
    """The same, where ``+`` and ``/`` do not break them, behind what can stand before a value."""
    begins = marks.values.begins
    return marks.found(begins[marks.looks(begins, -1, _BEFORE_VALUE)])


_BEFORE_VALUE = _among(b" \"'`:=([>\t") | (np.arange(256) >= 128)


def street_numbers(marks: Marks) -> Places:
    """Up to five digits, perhaps a letter, a space, and a capital or what may be an ordinal."""
    runs = marks.digits.where(marks.digits.ends - marks.digits.begins <= 5)
    ordinal = np.zeros(len(runs.ends), np.bool_)
    for offset in (2, 3, 4):
        ordinal |= marks.looks(runs.ends, offset, _among(b"snrt"))
    ordinal &= marks.looks(runs.ends, 1, _among(b"0123456789"))
    plain = marks.looks(runs.ends, 0, _among(b" ")) & (marks.looks(runs.ends, 1, _UPPER) | ordinal)
    letter = marks.looks(runs.ends, 0, _ALPHANUMERIC) & marks.looks(runs.ends, 1, _among(b" "))
    return marks.found(runs.begins[plain | letter])


def towns(marks: Marks) -> Places:
    """Capitals that begin a word in the 60 characters before a post code behind two capitals."""
    runs = marks.digits.where(marks.digits.ends - marks.digits.begins == 5)
    state = marks.looks(runs.begins, -1, _among(b" "))
    for offset in (-2, -3):
        state &= marks.looks(runs.begins, offset, _UPPER)
    found: set[int] = set()
    for place in runs.begins[state].tolist():
        begin = max(1, place - 60)
        window = marks.classes[begin - 1 : place]
        starts = _UPPER[window[1:]] & ~_ALPHANUMERIC[window[:-1]]
        found.update((begin + np.flatnonzero(starts)).tolist())
    return marks.found(sorted(found))


def house_numbers(marks: Marks) -> Places:
    """All places in the 70 characters before a 号 behind a number."""
    places = marks.at(NUMBER_SIGN)
    found: set[int] = set()
    for place in places[marks.looks(places, -1, _NUMERAL)].tolist():
        line = marks.bytes.rfind(b"\n", max(0, place - 70), place)
        found.update(range(max(line + 1, place - 70), place))
    return marks.found(sorted(found))


def _walk_back(text: bytes, place: int, alphabet: bytes, limit: int) -> int:
    begin = max(0, place - limit)
    return begin + len(text[begin:place].rstrip(alphabet))

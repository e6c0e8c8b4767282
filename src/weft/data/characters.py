"""Classes of characters and their folded form, as tables that numpy, native and plain code all read.

One flag a property, so that every path agrees on what a letter, a space or a punctuation mark is.
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
import numpy.typing as npt

PLANES = 0x32400
"""Code points from here on are unassigned, private or tags: nothing is asked of them."""

ALPHABETIC, SPACE, SYMBOL, BREAK, TERMINAL, HAN, ENDING, FUNCTION, DIGIT, MARK = (1 << n for n in range(10))
"""``str.isalpha``; ``str.isspace``; punctuation of datatrove's word rules; what ``str.splitlines`` breaks at;
Unicode's sentence terminals; Han; marks that end a Chinese sentence; Chinese function characters; decimal
digits; punctuation of Unicode (category P)."""

ENDINGS = "。！？!?…；｡"
FUNCTION_CHARACTERS = "的了是在不和有我这個个一也就他与與为為之而其以于於人上中到们們她你说說那要会會对對"
"""The characters that any Chinese prose, modern or classical, is full of and lists of keywords lack."""

# As in datatrove (Apache-2.0), utils/text.py, so that its rules give the same counts here.
SYMBOLS = (
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
    + "".join(chr(code) for start, stop in ((0, 9), (11, 32), (127, 160)) for code in range(start, stop))
)
_TERMINALS = (
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736"
    " 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f"
    " 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f"
    " a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59"
    " 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239"
    " 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946"
    " 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16e98"
    " 1bc9f 1da88"
)
_HAN = ((0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, PLANES))
_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def terminals() -> str:
    """Every sentence terminal."""
    spans = [part.split("-") for part in _TERMINALS.split()]
    return "".join(chr(code) for span in spans for code in range(int(span[0], 16), int(span[-1], 16) + 1))


@functools.cache
def flags() -> npt.NDArray[np.uint16]:
    """The flags of every code point up to PLANES, which stands for all above and has none."""
    table = np.zeros(PLANES + 1, np.uint16)
    for code in range(PLANES):
        character = chr(code)
        category = unicodedata.category(character)
        table[code] = (
            ALPHABETIC * character.isalpha()
            | SPACE * character.isspace()
            | DIGIT * (category == "Nd")
            | MARK * (category[0] == "P")
        )
    for flag, characters in (
        (SYMBOL, SYMBOLS),
        (BREAK, _BREAKS),
        (TERMINAL, terminals()),
        (ENDING, ENDINGS),
        (FUNCTION, FUNCTION_CHARACTERS),
    ):
        table[[ord(character) for character in characters]] |= flag
    for start, stop in _HAN:
        table[start:stop] |= np.where(table[start:stop] & ALPHABETIC, HAN, 0).astype(np.uint16)
    return table


@functools.cache
def folded() -> npt.NDArray[np.uint32]:
    """Lower-case code point of every letter, mark and digit, 0 for everything else (a word ends there)."""
    table = np.zeros(PLANES + 1, np.uint32)
    for code in range(PLANES):
        if unicodedata.category(chr(code))[0] in "LMN":
            lower = chr(code).lower()
            table[code] = ord(lower) if len(lower) == 1 else code
    return table

"""One form for digits, letters and separators, character by character, so that offsets stay.

Full-width forms become ASCII, the many dashes ``-`` and the many spaces a space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FOLD = {0xFF01 + i: 0x21 + i for i in range(94)}
FOLD |= dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE63], ord("-"))
FOLD |= dict.fromkeys([0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], ord(" "))
FOLD |= dict.fromkeys([0xB7, 0x2022, 0x2027, 0x30FB, 0xFF65], ord("·"))
PROVINCES = "京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼川贵云渝藏陕甘青宁新"
HAN_NUMERALS = "〇零一二三四五六七八九十百"
OTHER, PROVINCE, NUMBER_SIGN, HAN_NUMERAL, MIDDLE_DOT = 128, 129, 130, 131, 132
"""Classes of characters beyond ASCII: any, on number plates, 号, Chinese digits, dots on number plates."""


def fold(text: str) -> str:
    """The text in its one form, as many characters long."""
    return text if text.isascii() else text.translate(FOLD)


def _class_table() -> npt.NDArray[np.uint8]:
    table = np.full(1 << 16, OTHER, np.uint8)
    table[:128] = np.arange(128)
    for code, folded in FOLD.items():
        table[code] = folded if folded < 128 else MIDDLE_DOT
    for letters, name in ((PROVINCES, PROVINCE), ("号", NUMBER_SIGN), (HAN_NUMERALS, HAN_NUMERAL)):
        table[[ord(letter) for letter in letters]] = name
    return table


_CLASSES = _class_table()


class Folded:
    """Texts [N] joined by line feeds, as an array of classes: folded ASCII, or one of the classes above.

    ``classes`` uint8 [C] with C characters in all, ``begins`` int64 [N] the index of each text's first.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        joined = "\n".join(texts)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.begins = np.cumsum(lengths + 1) - lengths - 1
        self._ends = self.begins + lengths
        self._codes: npt.NDArray[np.uint32] | None = None
        if joined.isascii():
            self.classes = np.frombuffer(joined.encode("ascii"), np.uint8)
            return
        self._codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        # What lies beyond the table has the class of its last entry.
        self.classes = _CLASSES.take(self._codes, mode="clip")

    def text(self, document: int) -> str:
        """The same as ``fold`` of that text, made from the arrays because ``translate`` is slow."""
        text = self._texts[document]
        if self._codes is None or text.isascii():
            return text
        place = slice(self.begins[document], self._ends[document])
        codes, classes = self._codes[place], self.classes[place]
        folded = np.where(classes < OTHER, classes, codes).astype(np.uint32)
        folded[classes == MIDDLE_DOT] = ord("·")
        return folded.tobytes().decode("utf-32-le", "surrogatepass")

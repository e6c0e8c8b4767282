"""Step 2: one way to write the same text. Code keeps every character but its line ends."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.data import kinds
from weft.data.characters import PLANES
from weft.data.engine import batch_function, daft
from weft.data.schema import KIND, TEXT
from weft.data.traits import FREE, Table, table, traits

Mask = npt.NDArray[np.bool_]

# Controls but tab and line feed, the C1 controls, the byte order mark, and the line and paragraph
# separators' neighbours that no text needs. Joiners stay: emoji and Indic scripts are made with them.
_CONTROLS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}\x{feff}\x{fff9}-\x{fffb}\x{fffe}\x{ffff}]"
_RETURN, _CONTROL, _UNSTABLE = (FREE << number for number in range(3))
_CONTROL_CODES = (
    *range(9), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0), 0xFEFF,
    *range(0xFFF9, 0xFFFC), 0xFFFE, 0xFFFF,
)  # fmt: skip
# Vowels and final consonants of Hangul: they compose with what stands before them, by rule, not by table.
_JAMO = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))


def normalise(frame: Any) -> Any:
    """Line ends become ``\\n``; text (not code) is brought to NFC and loses control characters."""
    text = _normalise(daft.col(TEXT), daft.col(KIND))
    return frame.with_column(TEXT, text)


@batch_function(daft.DataType.string(), rows=256)
def _normalise(texts: Any, names: Any) -> Any:
    return normalise_texts(texts.to_arrow().cast(pa.large_string()), pc.equal(names.to_arrow(), kinds.CODE))


def normalise_texts(texts: pa.Array, is_code: pa.Array) -> pa.Array:
    """The same on a large_string array [N] and a boolean array [N]; null texts stay null."""
    found = traits(texts, _kinds())
    prose = ~np.asarray(pc.fill_null(is_code, False).to_numpy(zero_copy_only=False), bool)
    texts = change(texts, (found & _RETURN) != 0, _line_ends)
    texts = change(texts, prose & ((found & _UNSTABLE) != 0), _compose)
    return change(texts, prose & ((found & _CONTROL) != 0), _without_controls)


def change(texts: pa.Array, where: Mask, how: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Texts [N] with those of ``where`` [N] put through ``how``."""
    if not where.any():
        return texts
    mask = pa.array(where)
    return pc.replace_with_mask(texts, mask, how(pc.filter(texts, mask)))


def _line_ends(texts: pa.Array) -> pa.Array:
    return pc.replace_substring(pc.replace_substring(texts, "\r\n", "\n"), "\r", "\n")


def _compose(texts: pa.Array) -> pa.Array:
    # Arrow's own utf8_normalize leaves decomposed text as it is under "NFC" (pyarrow 25).
    return pa.array([unicodedata.normalize("NFC", text) for text in texts.to_pylist()], texts.type)


def _without_controls(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, _CONTROLS, "")


@functools.cache
def _kinds() -> Table:
    return table({_RETURN: [0x0D], _CONTROL: _CONTROL_CODES, _UNSTABLE: unstable()})


def unstable() -> list[int]:
    """Code points that NFC may change: text without any of them is in NFC (UAX #15, quick check)."""
    codes = {*_JAMO}
    for code in range(PLANES):
        character = chr(code)
        parts = unicodedata.decomposition(character)
        if parts and not parts.startswith("<"):
            codes.update(int(part, 16) for part in parts.split()[1:])
        if unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            codes.add(code)
    return sorted(codes)

"""Step 3: repairs of text, code left alone: mojibake undone, invisible characters out, one form of the same.

One walk over the bytes finds the few texts that need work, so a clean corpus costs little. Mojibake is
repaired by ftfy; UTF-8 that was read as GBK, which ftfy does not know, here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weft.core.errors import ResourceError
from weft.data import kinds
from weft.data.config_quality import CleanConfig
from weft.data.engine import batch_function, daft
from weft.data.schema import KIND, TEXT
from weft.data.steps.normalise import Mask, change
from weft.data.traits import FOLLOWER, FREE, LEAD, PAIR, Table, table, traits

# Behind a lead byte of UTF-8, as Latin-1 shows it, one that continues it: as Latin-1 or Windows-1252 do.
_LATIN_FOLLOWERS = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
# The first bytes of common Chinese characters and marks in UTF-8, as GBK shows them: 的 。 ， 在 是 了 我.
_GBK_FIRST = "鐨銆锛鍦鏄浜涓鎴鈥"
_GBK, _HIDDEN, _WIDE, _TRADITIONAL = (FREE << number for number in range(4))
_HIDDEN_CODES = (0xAD, 0x180E, *range(0x200B, 0x200E), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF)
# Zero-width space and no-break space, soft hyphen, Mongolian vowel separator, word joiner and invisible
# operators, marks of direction that reorder what is read.
_INVISIBLE = "[\u200b\u00ad\u180e\u2060-\u2064\u206a-\u206f\u202a-\u202e\u2066-\u2069\ufeff]"
# Joiners make emoji and Indic letters; behind ASCII and Han they are rubbish.
_JOINERS = r"([\x21-\x7e\p{Han}])[\x{200c}\x{200d}]+"
# Common ideographs with the marks that stand among them.
_HAN = re.compile("[\u4e00-\u9fff\u2014\u2018-\u201d\u2026\u3000-\u3017\uff01-\uff5e\u00b7]")
_FULL_WIDTH = {
    "alphanumeric": [*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)],
    "all": [*range(0xFF01, 0xFF5F)],
}


def clean(frame: Any, config: CleanConfig) -> Any:
    """Repair the column text where kind is not code."""
    return frame.with_column(TEXT, _clean(daft.col(TEXT), daft.col(KIND), config))


@batch_function(daft.DataType.string(), rows=256)
def _clean(texts: Any, sorts: Any, config: CleanConfig) -> Any:
    return clean_texts(texts.to_arrow(), pc.equal(sorts.to_arrow(), kinds.CODE), config)


def clean_texts(texts: pa.Array, is_code: pa.Array, config: CleanConfig) -> pa.Array:
    """The same on a large_string array [N] and a boolean array [N]; null texts stay null."""
    texts = texts.cast(pa.large_string())
    prose = ~np.asarray(pc.fill_null(is_code, False).to_numpy(zero_copy_only=False), bool)
    found = traits(texts, _kinds(config.simplified))

    def where(kind: int) -> Mask:
        chosen: Mask = prose & ((found & kind) != 0)
        return chosen

    if config.mojibake and (repair := where(PAIR | _GBK)).any():
        texts = change(texts, where(PAIR), _each(_ftfy()))
        texts = change(texts, where(_GBK), _each(repair_gbk))
        # A repair brings out characters that were not there before.
        found[repair] = traits(texts.filter(pa.array(repair)), _kinds(config.simplified))
    if config.zero_width:
        texts = change(texts, where(_HIDDEN), _visible)
    if config.half_width != "off":
        narrow = _narrow(config.half_width)
        texts = change(texts, where(_WIDE), _each(lambda text: text.translate(narrow)))
    if config.simplified:
        texts = change(texts, where(_TRADITIONAL), _each(_simplifier()))
    return texts


def repair_gbk(text: str) -> str:
    """Undo, line by line, UTF-8 that was read as GBK.

    What was lost in reading is U+FFFD in the result. A line of which these would be over a quarter of what is
    not ASCII, or over a fifth characters that are not Chinese, was no such text, and is left as it is: a few
    rare characters side by side can be UTF-8 by chance.
    """
    return "\n".join(map(_repair_line, text.split("\n")))


def _repair_line(line: str) -> str:
    if not re.search(f"[{_GBK_FIRST}]", line):
        return line
    # GB18030 has the euro sign elsewhere, which Windows' GBK shows for the byte 0x80. No UTF-8 has 0xFF.
    content = b"\x80".join(part.encode("gb18030") for part in line.split("€"))
    repaired = content.replace("\ufffd".encode("gb18030"), b"\xff").decode("utf-8", "replace")
    foreign = sum(character > "\x7f" for character in repaired)
    lost, han = repaired.count("\ufffd"), len(_HAN.findall(repaired))
    meant = 4 * lost <= foreign and 5 * (foreign - lost - han) <= foreign
    return re.sub("\ufffd+", "\ufffd", repaired) if meant else line


def _each(repair: Callable[[str], str]) -> Callable[[pa.Array], pa.Array]:
    return lambda texts: pa.array([repair(text) for text in texts.to_pylist()], pa.large_string())


def _visible(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(pc.replace_substring_regex(texts, _INVISIBLE, ""), _JOINERS, r"\1")


@functools.cache
def _kinds(simplified: bool) -> Table:
    return table(
        {
            LEAD: range(0xC2, 0xF5),
            FOLLOWER: [*range(0x80, 0xC0), *map(ord, _LATIN_FOLLOWERS)],
            _GBK: map(ord, _GBK_FIRST),
            _HIDDEN: _HIDDEN_CODES,
            _WIDE: [0x3000, *range(0xFF01, 0xFF5F)],
            _TRADITIONAL: map(ord, _traditional()) if simplified else (),
        }
    )


@functools.cache
def _narrow(which: str) -> dict[int, int]:
    table = {code: code - 0xFEE0 for code in _FULL_WIDTH[which]}
    return table | {0x3000: 0x20} if which == "all" else table


@functools.cache
def _ftfy() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError as error:
        raise ResourceError(
            "clean.mojibake needs ftfy; run pip install 'weft[data]' or set it to false."
        ) from error
    repair: Callable[[str], str] = ftfy.fix_encoding
    return repair


@functools.cache
def _simplifier() -> Callable[[str], str]:
    try:
        import opencc
    except ImportError as error:
        raise ResourceError(
            "clean.simplified needs opencc; run pip install 'weft[data]' or set it to false."
        ) from error
    convert: Callable[[str], str] = opencc.OpenCC("t2s").convert
    return convert


@functools.cache
def _traditional() -> str:
    """Every character that changes on its own."""
    simplify = _simplifier()
    return "".join(c for c in map(chr, range(0x3400, 0xA000)) if simplify(c) != c)

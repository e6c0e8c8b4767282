"""Repairs of text, code left alone: wrong encodings undone, invisible characters out, one form of the same.

Whole-array tests find the few texts that need work, so a clean corpus costs a few passes of a regular
expression engine. Mojibake is repaired by ftfy; UTF-8 that was read as GBK, which ftfy does not know, here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from weft.core.errors import ResourceError
from weft.data import kinds
from weft.data.config_quality import CleanConfig
from weft.data.engine import batch_function, daft
from weft.data.schema import KIND, TEXT

# A lead byte of UTF-8 and a byte that continues it, as Latin-1 or Windows-1252 show them.
_LATIN_MOJIBAKE = "[\u00c2-\u00f4][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
# The first bytes of common Chinese characters and marks in UTF-8, as GBK shows them: 的 。 ， 在 是 了 我.
_GBK_MOJIBAKE = "[鐨銆锛鍦鏄浜涓鎴鈥]"
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
    prose = pc.and_(pc.invert(pc.fill_null(is_code, False)), pc.is_valid(texts))
    if config.mojibake:
        texts = _where(texts, prose, _LATIN_MOJIBAKE, _ftfy())
        texts = _where(texts, prose, _GBK_MOJIBAKE, repair_gbk)
    if (
        config.zero_width
        and pc.any(
            _found(texts, prose, "[\u00ad\u180e\u200b-\u200d\u202a-\u202e\u2060-\u206f\ufeff]")
        ).as_py()
    ):
        cleaned = pc.replace_substring_regex(texts, _INVISIBLE, "")
        texts = pc.if_else(prose, pc.replace_substring_regex(cleaned, _JOINERS, r"\1"), texts)
    if config.half_width != "off":
        narrow = _narrow(config.half_width)
        texts = _where(texts, prose, "[\u3000\uff01-\uff5e]", lambda text: text.translate(narrow))
    if config.simplified:
        simplify = _simplifier()
        texts = _where(texts, prose, f"[{_traditional()}]", simplify)
    return texts


def repair_gbk(text: str) -> str:
    """Undo, line by line, UTF-8 that was read as GBK.

    What was lost in reading is U+FFFD in the result. A line of which these would be over a quarter of what is
    not ASCII, or over a fifth characters that are not Chinese, was no such text, and is left as it is: a few
    rare characters side by side can be UTF-8 by chance.
    """
    return "\n".join(map(_repair_line, text.split("\n")))


def _repair_line(line: str) -> str:
    if not re.search(_GBK_MOJIBAKE, line):
        return line
    # GB18030 has the euro sign elsewhere, which Windows' GBK shows for the byte 0x80. No UTF-8 has 0xFF.
    content = b"\x80".join(part.encode("gb18030") for part in line.split("€"))
    repaired = content.replace("\ufffd".encode("gb18030"), b"\xff").decode("utf-8", "replace")
    foreign = sum(character > "\x7f" for character in repaired)
    lost, han = repaired.count("\ufffd"), len(_HAN.findall(repaired))
    meant = 4 * lost <= foreign and 5 * (foreign - lost - han) <= foreign
    return re.sub("\ufffd+", "\ufffd", repaired) if meant else line


def _found(texts: pa.Array, where: pa.Array, pattern: str) -> pa.Array:
    return pc.and_(where, pc.fill_null(pc.match_substring_regex(texts, pattern), False))


def _where(texts: pa.Array, where: pa.Array, pattern: str, change: Callable[[str], str]) -> pa.Array:
    """Change the texts of ``where`` that match."""
    found = _found(texts, where, pattern)
    if not pc.any(found).as_py():
        return texts
    changed = [change(text) for text in texts.filter(found).to_pylist()]
    return pc.replace_with_mask(texts, found, pa.array(changed, pa.large_string()))


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

"""Bytes of a file to text, or the reason why not."""

from __future__ import annotations

import codecs

_SNIFF = 8192
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(content: bytes, *, replace: bool = False) -> tuple[str | None, str | None, str | None]:
    """``(text, reason, value)``: a text, or ``binary`` or ``invalid_encoding`` with what was found.

    In this order: a byte order mark, UTF-16 without a mark (by where its zero bytes lie), binary (a zero
    byte), UTF-8, GB18030 when that gives mostly common Han characters. ``replace`` reads what is left
    as UTF-8 with U+FFFD for the invalid bytes.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            return _strictly(content[len(mark) :], name, replace)
    head = content[:_SNIFF]
    if b"\0" in head:
        wide = _utf16_without_mark(head)
        if wide is None:
            return None, "binary", f"zero byte at {head.index(0)}"
        return _strictly(content, wide, replace)
    try:
        return content.decode("utf-8"), None, None
    except UnicodeDecodeError as error:
        text = _han_text(content)
        if text is not None:
            return text, None, None
        if replace:
            return content.decode("utf-8", errors="replace"), None, None
        return None, "invalid_encoding", f"byte 0x{content[error.start]:02x} at {error.start}"


def _strictly(content: bytes, name: str, replace: bool) -> tuple[str | None, str | None, str | None]:
    try:
        return content.decode(name, errors="replace" if replace else "strict"), None, None
    except UnicodeDecodeError as error:
        return None, "invalid_encoding", f"{name} breaks at byte {error.start}"


def _utf16_without_mark(head: bytes) -> str | None:
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = max(1, len(head) // 2)
    if odd > 0.4 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _han_text(content: bytes) -> str | None:
    """The text under GB18030 if more than half of what is not ASCII is Han or its punctuation.

    Latin-1 text passes GB18030's syntax now and then, but gives scattered rare characters: those in the
    two-byte plane of GB 2312 level 1 (lead bytes B0-D7) are the common ones.
    """
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError:
        return None
    foreign = [character for character in text[: 4 * _SNIFF] if character > "\x7f"]
    common = 0
    for character in foreign:
        code = character.encode("gb18030")
        common += len(code) == 2 and (0xB0 <= code[0] <= 0xD7 or code[0] in (0xA1, 0xA3)) and code[1] >= 0xA1
    return text if foreign and common > 0.7 * len(foreign) else None

"""Bytes of a file to text, or the reason why not."""

from __future__ import annotations

import codecs
import functools
import re

import numpy as np
import numpy.typing as npt

_SNIFF = 8192
_SAMPLE = 1 << 16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_EAST_ASIAN = ("gb18030", "big5", "cp932", "euc_jp", "cp949")
"""Of equally good ones the first wins. Big5 stands for cp950, which Python decodes in the same way."""
_COMMON = 0.7
_WESTERN = "cp1252"
_FUNCTION_WORDS = frozenset(
    """
    a aan aber af als am an and at att au auch auf aus aux av avec bei ce cette che com como con da dans das
    dass dat de del della dem den der des det di die do dos du een ein eine einem einen einer el elle em en
    er es est et for för für gli han hat het hij hon i ich ik ikke il im in inte is ist it je la las le les
    lo los mais med met mit más nach ne nel nicht niet no noch nous não o och oder of og ont op os ou par
    pas per pero più plus por pour på qu que qui sa se ses sich sie sind so som son sono sont su sur sus te
    that the til till to uma un una und une van var von voor vor vous war was wie wir with y zu zum zur
    """.split()  # noqa: SIM905
)
_WORD = re.compile(r"[^\W\d_]+")

Decoded = tuple[str | None, str | None, str | None]
"""``(text, reason, value)``: a text, or ``binary`` or ``invalid_encoding`` with what was found."""


def decode(content: bytes, *, replace: bool = False) -> Decoded:
    """The text of the bytes of a whole file.

    In this order: a byte order mark, UTF-16 without a mark (by where its zero bytes lie), binary (a zero
    byte), UTF-8, the East Asian encodings (GB18030, Big5, Shift-JIS, EUC-JP, EUC-KR) when that gives mostly
    common characters, and CP1252 (which has Latin-1 in it) when that gives words that European
    languages are full of. ``replace`` reads what is left as UTF-8 with U+FFFD for the invalid bytes.
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
        for name in _legacy(content[:_SAMPLE] if error.start < _SAMPLE else content):
            try:
                return content.decode(name), None, None
            except UnicodeDecodeError:
                continue
        if replace:
            return content.decode("utf-8", errors="replace"), None, None
        return None, "invalid_encoding", f"byte 0x{content[error.start]:02x} at {error.start}"


def detect(head: bytes) -> str | None:
    """The name of the encoding of a file that begins with ``head``, as Python calls it; None if unknown.

    ``head`` may end in the middle of a character.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\0" in head[:_SNIFF]:
        return _utf16_without_mark(head[:_SNIFF])
    if _partly(head, "utf-8") is not None:
        return "utf-8"
    found = _legacy(head[:_SAMPLE])
    # A few bad bytes in UTF-8 are for the reader to find.
    return found[0] if found else "utf-8" if _mostly_utf8(head) else None


def has_mark(content: bytes) -> bool:
    """Whether a byte order mark says what the encoding is."""
    return content.startswith(tuple(mark for mark, _ in _MARKS))


def _strictly(content: bytes, name: str, replace: bool) -> Decoded:
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


def _legacy(sample: bytes) -> list[str]:
    """The encodings from before Unicode that make good text of the sample, the best first."""
    if _mostly_utf8(sample):
        return []
    scores: dict[str, float] = {}
    for name in _EAST_ASIAN:
        text = _partly(sample, name)
        if text is not None:
            scores[name] = _common_share(text, name)
    good = sorted((name for name in scores if scores[name] > _COMMON), key=lambda name: -scores[name])
    if not good and _looks_european(sample):
        return [_WESTERN]
    return good


def _partly(sample: bytes, name: str) -> str | None:
    """The text of a sample that may end in the middle of a character; None when it does not decode."""
    try:
        return codecs.getincrementaldecoder(name)().decode(sample)
    except UnicodeDecodeError:
        return None


def _mostly_utf8(sample: bytes) -> bool:
    """Whether most of what is not ASCII is UTF-8: then it is damaged UTF-8, not another encoding."""
    foreign = int(np.count_nonzero(np.frombuffer(sample, np.uint8) >= 0x80))
    valid = sample.decode("utf-8", errors="ignore").encode("utf-8")
    return int(np.count_nonzero(np.frombuffer(valid, np.uint8) >= 0x80)) > 0.7 * max(1, foreign)


def _common_share(text: str, name: str) -> float:
    """The share of common characters of the encoding's languages in what is not ASCII."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
    foreign = codes[codes > 0x7F]
    if not len(foreign):
        return 0.0
    kana = np.count_nonzero((foreign >= 0x3041) & (foreign <= 0x30FC)) / len(foreign)
    hangul = np.count_nonzero((foreign >= 0xAC00) & (foreign <= 0xD7A3)) / len(foreign)
    signs = np.count_nonzero(_signs()[np.minimum(foreign, 0xFFFF)]) / len(foreign)
    han = np.count_nonzero(_common_han()[np.minimum(foreign, 0xFFFF)]) / len(foreign)
    if name == "cp949":
        # Chinese can pass for Korean by chance only where it is short.
        return hangul + signs if hangul > 0.5 and len(foreign) >= 24 and hangul + signs > 0.95 else 0.0
    if name in ("cp932", "euc_jp"):
        return kana + signs + han if kana > 0.1 else 0.0
    korean = _partly_korean(text, name) if name == "gb18030" else False
    return 0.0 if korean else han + signs


def _partly_korean(text: str, name: str) -> bool:
    """Whether the same bytes are Korean: GB 2312 and KS X 1001 use the same range for common characters."""
    foreign = "".join(character for character in text[:_SNIFF] if character > "\x7f")
    other = _partly(foreign.encode(name, "ignore"), "cp949")
    return other is not None and _common_share(other, "cp949") > 0


def _looks_european(sample: bytes) -> bool:
    """Whether CP1252 makes words of it, some of them the small words of a European language.

    Between letters beyond ASCII there must be many more ASCII letters, which a Cyrillic or Greek text
    in its own encoding does not have.
    """
    text = _partly(sample, _WESTERN)
    if text is None:
        return False
    words = _WORD.findall(text.lower())
    letters = sum(map(len, words))
    foreign = sum(character > "\x7f" for character in text)
    accented = sum(not character.isascii() for word in words for character in word)
    small = sum(word in _FUNCTION_WORDS for word in words)
    return small >= 5 and small > 0.15 * len(words) and accented < 0.2 * letters and accented > 0.5 * foreign


@functools.cache
def _common_han() -> npt.NDArray[np.bool_]:
    """Of each code point of the basic plane, whether it is of level 1 in GB 2312 or in Big5."""
    table = np.zeros(0x10000, np.bool_)
    pairs = [
        (name, bytes((lead, trail)))
        for name, leads in (("gb2312", range(0xB0, 0xD8)), ("big5", range(0xA4, 0xC7)))
        for lead in leads
        for trail in range(0x40, 0xFF)
    ]
    for name, pair in pairs:
        character = pair.decode(name, "ignore")
        if len(character) == 1 and character >= "\u4e00":
            table[ord(character)] = True
    return table


@functools.cache
def _signs() -> npt.NDArray[np.bool_]:
    """Of each code point of the basic plane, whether it is punctuation that stands beside Han."""
    table = np.zeros(0x10000, np.bool_)
    for start, stop in ((0x3000, 0x3012), (0x2010, 0x2027), (0xFF01, 0xFF5F)):
        table[start:stop] = True
    table[0xB7] = True
    return table

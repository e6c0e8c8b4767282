"""HTML: the main content of a page below its title."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from weft.data import encoding
from weft.data.config import ReadConfig
from weft.data.readers.part import Part, too_large
from weft.data.readers.unpack import read_whole

_CHARSET = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]{2,40})""", re.I
)
_DECLARED_IN = 2048


def read(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """The page as one text; of one that breaks off, what came before the break."""
    content, broken = read_whole(stream, config.max_document_bytes)
    if len(content) > config.max_document_bytes:
        yield too_large("", len(content), config.max_document_bytes)
        return
    if broken is not None:
        content = content[: content.rfind(b">") + 1]
    if content or broken is None:
        yield Part("", len(content), *page_text(content, None, replace=config.invalid == "replace"))
    if broken is not None:
        raise broken


def page_text(
    content: bytes, charset: str | None, *, replace: bool = False, main: bool = True
) -> tuple[str | None, str | None, str | None]:
    """``(text, reason, value)`` of a page; ``charset`` is what the server said of it.

    What is declared, by the server or in the head of the page, counts when the bytes bear it out; else
    the encoding is detected as of any file. ``main`` leaves navigation, footers and the like away, unless
    nothing else is there.
    """
    source, reason, value = _decode(content, charset, replace)
    if source is None:
        return None, reason, value
    tree = HTMLTree.parse(source)
    body = extract_plain_text(tree, preserve_formatting=True, main_content=main)
    if main and not body.strip():
        body = extract_plain_text(tree, preserve_formatting=True)
    title = " ".join((tree.title or "").split())
    if title and main and not body.lstrip().startswith(title):
        body = f"{title}\n\n{body}"
    return body, None, None


def _decode(content: bytes, charset: str | None, replace: bool) -> tuple[str | None, str | None, str | None]:
    declared = _CHARSET.search(content[:_DECLARED_IN])
    names = [charset or "", declared.group(1).decode("ascii", "replace") if declared else ""]
    for name in names:
        codec = map_encoding_to_html5(name, False) if name else None
        # A page that can be searched for ASCII is not UTF-16, whatever it says; marks come first below.
        if codec and not codec.startswith("utf-16") and not encoding.has_mark(content):
            try:
                return content.decode("gb18030" if codec in ("gbk", "gb2312") else codec), None, None
            except (UnicodeDecodeError, LookupError):
                continue
    return encoding.decode(content, replace=replace)

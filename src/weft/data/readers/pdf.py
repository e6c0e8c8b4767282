"""PDF: the text layer of its pages as one document, with the optional package pypdf."""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

from weft.data.config import ReadConfig
from weft.data.readers.part import Broken, Part, too_large
from weft.data.readers.unpack import read_whole

_EXTRA = "pdf"


def read(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """The pages' text; raises Broken with ``needs_extra`` where pypdf is not installed."""
    pypdf = _pypdf()
    if pypdf is None:
        raise Broken("needs_extra", f"pip install 'weft[{_EXTRA}]'")
    content, broken = read_whole(stream, config.max_document_bytes)
    if broken is not None:
        raise broken
    if len(content) > config.max_document_bytes:
        yield too_large("", len(content), config.max_document_bytes)
        return
    yield Part("", len(content), _text(pypdf, content))


@functools.cache
def _pypdf() -> Any:
    """The library, imported only where there is a PDF, because that takes longer than all other readers."""
    try:
        import pypdf
    except ImportError:
        return None
    # Every oddity of a file is a line on the terminal otherwise.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    return pypdf


def _text(pypdf: Any, content: bytes) -> str:
    try:
        document = pypdf.PdfReader(io.BytesIO(content))
        # Many are encrypted with the empty password, which every viewer tries.
        if document.is_encrypted and not document.decrypt(""):
            raise Broken("encrypted", "it needs a password")
        return "\n\n".join(page.extract_text().strip() for page in document.pages)
    except Broken:
        raise
    except pypdf.errors.DependencyError as error:
        raise Broken("needs_extra", str(error)) from None
    # A damaged file makes pypdf fail in ways that no list of errors covers.
    except Exception as error:
        raise Broken("damaged", f"{type(error).__name__}: {error}") from None

"""Step 2: one way to write the same text. Code keeps every character but its line ends."""

from __future__ import annotations

import unicodedata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from weft.data import kinds
from weft.data.engine import batch_function, daft
from weft.data.schema import KIND, TEXT

# Controls but tab and line feed, the C1 controls, the byte order mark, and the line and paragraph
# separators' neighbours that no text needs. Joiners stay: emoji and Indic scripts are made with them.
_CONTROLS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}\x{feff}\x{fff9}-\x{fffb}\x{fffe}\x{ffff}]"


def normalise(frame: Any) -> Any:
    """Line ends become ``\\n``; text (not code) is brought to NFC and loses control characters."""
    text = _normalise(daft.col(TEXT), daft.col(KIND))
    return frame.with_column(TEXT, text)


@batch_function(daft.DataType.string(), rows=256)
def _normalise(texts: Any, names: Any) -> Any:
    return normalise_texts(texts.to_arrow(), pc.equal(names.to_arrow(), kinds.CODE))


def normalise_texts(texts: pa.Array, is_code: pa.Array) -> pa.Array:
    """The same on a large_string array [N] and a boolean array [N]; null texts stay null."""
    texts = pc.replace_substring(pc.replace_substring(texts, "\r\n", "\n"), "\r", "\n")
    prose = pc.and_(pc.invert(pc.fill_null(is_code, False)), pc.is_valid(texts))
    if not pc.any(prose).as_py():
        return texts
    chosen = pc.filter(texts, prose)
    # Arrow's own utf8_normalize leaves decomposed text as it is under "NFC" (pyarrow 25).
    composed = [text if text.isascii() else unicodedata.normalize("NFC", text) for text in chosen.to_pylist()]
    chosen = pc.replace_substring_regex(pa.array(composed, pa.large_string()), _CONTROLS, "")
    return pc.replace_with_mask(texts, prose, chosen)

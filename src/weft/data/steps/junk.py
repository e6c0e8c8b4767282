"""Step 4: drop what is no use as training text, each with the rule and the figure that broke it.

====================  ======================================================================
empty                 nothing but white space
too_short             fewer than ``min_bytes`` of UTF-8 (a Han character counts three, as it
                      says more than a letter)
long_line             code: longest line over 1,000 characters, and text: over 100,000
long_mean_line        code: over 100 characters a line (both StarCoder, arXiv:2305.06161)
repeated_lines        share of characters in repeated lines (Gopher, arXiv:2112.11446, has 0.2
                      for web pages; code repeats short lines by nature)
not_text              fewer than a quarter letters and digits (StarCoder)
generated             code whose first five lines say that a program wrote it: tables, parsers and
                      bindings repeat one template (The Stack v2, arXiv:2402.19173, with the
                      words of Python's own generators added)
====================  ======================================================================
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from weft.data import kinds
from weft.data.config import JunkConfig
from weft.data.engine import batch_function, daft
from weft.data.measure import measure
from weft.data.schema import BYTES, KIND, LANGUAGE, REASON, TEXT, VALUE

_T = daft.DataType
_GENERATED = (
    r"(?i)\A(?:[^\n]*\n){0,4}[^\n]*(?:auto-?generated|automatically generated|generated automatically"
    r"|generated (?:by|from|with)|do not edit)"
)
_MEASURES = {
    "alphanumeric": _T.float64(),
    "longest_line": _T.int64(),
    "mean_line": _T.float64(),
    "repeated": _T.float64(),
    "script": _T.string(),
}


def drop_junk(frame: Any, config: JunkConfig) -> Any:
    """Set reason and value where a rule is broken, and the language of text to its main script."""
    col, lit = daft.col, daft.lit
    frame = frame.with_column("measures", _measure(col(TEXT)))
    figure = {name: col("measures").get(name) for name in _MEASURES}
    size = daft.functions.length_bytes(col(TEXT))
    code = col(KIND) == lit(kinds.CODE)
    blank = ~daft.functions.regexp(col(TEXT), r"\S")
    long_text = (~code) & (figure["longest_line"] > config.max_line_text)
    repeated = daft.functions.when(code, lit(config.max_repeated_code)).otherwise(
        lit(config.max_repeated_text)
    )
    generated = code & daft.functions.regexp(col(TEXT), _GENERATED)
    if config.generated_code == "keep":
        generated = lit(False)
    rules = (
        ("empty", blank, size),
        ("too_short", size < config.min_bytes, size),
        ("not_text", figure["alphanumeric"] < config.min_alphanumeric, figure["alphanumeric"]),
        ("long_line", code & (figure["longest_line"] > config.max_line_code), figure["longest_line"]),
        ("long_line", long_text, figure["longest_line"]),
        ("long_mean_line", code & (figure["mean_line"] > config.max_mean_line_code), figure["mean_line"]),
        ("repeated_lines", figure["repeated"] > repeated, figure["repeated"]),
        ("generated", generated, size),
    )
    reason = daft.functions.when(~col(REASON).is_null(), col(REASON))
    value = daft.functions.when(~col(REASON).is_null(), col(VALUE))
    for name, broken, number in rules:
        reason = reason.when(broken, lit(name))
        value = value.when(broken, number.cast(_T.string()))
    nothing = lit(None).cast(_T.string())
    language = daft.functions.coalesce(col(LANGUAGE), figure["script"])
    return frame.with_columns(
        {
            REASON: reason.otherwise(nothing),
            VALUE: value.otherwise(nothing),
            LANGUAGE: language,
            BYTES: daft.functions.coalesce(size.cast(_T.int64()), col(BYTES)),
        }
    ).exclude("measures")


@batch_function(_T.struct(_MEASURES), rows=256)
def _measure(texts: Any) -> Any:
    # A null is a document that was dropped before its text was known; its figures are never looked at.
    measured = measure(pc.fill_null(texts.to_arrow(), ""))
    columns = [
        pa.array(measured.alphanumeric.round(4)),
        pa.array(measured.longest_line),
        pa.array(measured.mean_line.round(2)),
        pa.array(measured.repeated.round(4)),
        pa.array(measured.script, pa.large_string()),
    ]
    return pa.StructArray.from_arrays(columns, names=list(_MEASURES))

"""Step 5: the language of each text, offline, by CLD2 (naive Bayes on n-grams; the model is in the wheel).

It looks at a sample, the beginning and the middle of a text, because it takes 45 ns a byte and a language
shows soon. Code keeps the name of its programming language.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from weft.core.errors import ResourceError
from weft.data import kinds
from weft.data.config_quality import LanguageConfig
from weft.data.engine import batch_function, daft
from weft.data.kernels import Bytes, buffers
from weft.data.schema import KIND, LANGUAGE, REASON, TEXT, VALUE

SHARES = "language_shares"
"""Up to three languages of a text with their shares of it, the largest first."""
MIXED = "mixed_language"
"""Whether the second language has ``language.mixed_share`` or more."""
UNKNOWN = "und"
"""ISO 639's code for text of no language that was recognised."""

Shares = list[tuple[str, float]]
_T = daft.DataType
_SHARE = pa.struct([("language", pa.large_string()), ("share", pa.float64())])
_FOUND = pa.struct([(LANGUAGE, pa.large_string()), (SHARES, pa.large_list(_SHARE)), (MIXED, pa.bool_())])
# What the dominant script says where the text is too short for statistics.
_SHORT = 24  # bytes below which CLD2 is sure of anything
_SCRIPTS = {"han": "zh", "kana": "ja", "hangul": "ko", "greek": "el", "hebrew": "he", "devanagari": "hi"}


def identify_language(frame: Any, config: LanguageConfig) -> Any:
    """Set language, language_shares and mixed_language of text, and the reason ``language`` for text that has
    less than ``min_share`` in the languages kept; its value is the share of the main language."""
    if not config.identify:
        return frame
    col = daft.col
    found = _identify(col(TEXT), col(KIND), col(LANGUAGE), col(REASON), config)
    frame = frame.with_column("found", found)
    frame = frame.with_columns({name: col("found").get(name) for name in (LANGUAGE, SHARES, MIXED)})
    frame = frame.exclude("found")
    if not config.keep:
        return frame
    verdict = _foreign(col(SHARES), col(REASON), config)
    frame = frame.with_column("foreign", verdict)
    foreign = col(REASON).is_null() & ~col("foreign").is_null()
    return frame.with_columns(
        {
            REASON: daft.functions.when(foreign, daft.lit("language")).otherwise(col(REASON)),
            VALUE: daft.functions.when(foreign, col("foreign")).otherwise(col(VALUE)),
        }
    ).exclude("foreign")


@batch_function(daft.DataType.from_arrow_type(_FOUND), rows=256)
def _identify(texts: Any, sorts: Any, before: Any, reasons: Any, config: LanguageConfig) -> Any:
    prose = pc.and_(
        pc.is_null(reasons.to_arrow()), pc.fill_null(pc.not_equal(sorts.to_arrow(), kinds.CODE), True)
    )
    names = before.to_arrow().to_pylist()
    shares = languages(texts.to_arrow(), prose, names, config.sample_bytes)
    rows = [
        {
            LANGUAGE: found[0][0] if found else name,
            SHARES: [{"language": code, "share": share} for code, share in found],
            MIXED: len(found) > 1 and found[1][1] >= config.mixed_share,
        }
        for found, name in zip(shares, names, strict=True)
    ]
    return pa.array(rows, _FOUND)


@batch_function(_T.string())
def _foreign(shares: Any, reasons: Any, config: LanguageConfig) -> Any:
    verdicts = []
    for found, reason in zip(shares.to_arrow().to_pylist(), reasons.to_arrow().to_pylist(), strict=True):
        kept = sum(entry["share"] for entry in found or () if entry["language"] in config.keep)
        foreign = found and reason is None and kept < config.min_share
        verdicts.append(f"{found[0]['language']} {found[0]['share']:.2f}" if foreign else None)
    return pa.array(verdicts, pa.large_string())


def languages(
    texts: pa.Array, where: pa.Array, scripts: Sequence[str | None], sample_bytes: int
) -> list[Shares]:
    """Of each text [N] of ``where`` up to three ``(code, share)``, the largest first; of others nothing.

    Codes are ISO 639-1, ``zh`` for simplified and ``zh-Hant`` for traditional Chinese. Where too little is
    said, its script decides, or the language is UNKNOWN.
    """
    detect = _detector()
    data, offsets = buffers(texts)
    spans = zip(where.to_pylist(), scripts, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return [
        _shares(detect, sample(data, start, stop, sample_bytes), script) if wanted else []
        for wanted, script, start, stop in spans
    ]


def sample(data: Bytes, start: int, stop: int, size: int) -> bytes:
    """At most ``size`` bytes of a text: all, or its beginning and its middle, cut between characters."""
    if stop - start <= size:
        return data[start:stop].tobytes()
    half = size // 2
    middle = (start + stop) // 2
    # What is cut in two at an edge has at most three bytes left there.
    head = data[start : start + half].tobytes().decode("utf-8", "ignore")
    rest = data[middle : middle + half].tobytes().decode("utf-8", "ignore")
    return f"{head}\n{rest}".encode()


def _shares(detect: Callable[..., Any], text: bytes, script: str | None) -> Shares:
    try:
        reliable, _, details = detect(text, isPlainText=True, bestEffort=True)
    except ValueError:
        reliable, details = False, ()
    found = [(_code(entry[1]), entry[2] / 100) for entry in details if entry[1] != "un"]
    if len(text) < _SHORT or (not reliable and script in _SCRIPTS):
        return [(_SCRIPTS.get(script or "", UNKNOWN), 1.0)]
    return found or [(UNKNOWN, 1.0)]


def _code(name: str) -> str:
    """CLD2's artificial names of scripts ("xx-Copt") and its old codes."""
    return {"iw": "he", "in": "id"}.get(name, UNKNOWN if name.startswith("xx") else name)


@functools.cache
def _detector() -> Callable[..., Any]:
    try:
        import pycld2
    except ImportError as error:
        raise ResourceError(
            "language.identify needs pycld2; run pip install 'weft[data]' or set it to false."
        ) from error

    def detect(text: bytes, **options: Any) -> Any:
        try:
            return pycld2.detect(text, **options)
        except pycld2.error as error:
            raise ValueError(str(error)) from error

    return detect

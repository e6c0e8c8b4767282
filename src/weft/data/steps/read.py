"""Step 1: read files in pieces and decode them; one row a document, with a reason where that failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from weft.data import encoding, kinds, records
from weft.data.config import ReadConfig
from weft.data.engine import batch_function, daft
from weft.data.schema import BYTES, KIND, LANGUAGE, REASON, SOURCE, TEXT, VALUE
from weft.data.sources import Found

_GROUP_BYTES = 4 << 20
_PIECE = pa.struct(
    [
        ("path", pa.large_string()),
        (SOURCE, pa.large_string()),
        (KIND, pa.large_string()),
        (LANGUAGE, pa.large_string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        (REASON, pa.large_string()),
        (VALUE, pa.large_string()),
    ]
)
_NAMES = (SOURCE, KIND, LANGUAGE, BYTES, TEXT, REASON, VALUE)
_ROW = pa.struct([(name, pa.int64() if name == BYTES else pa.large_string()) for name in _NAMES])


def read(listing: Sequence[Found], config: ReadConfig) -> Any:
    """A frame with the columns source, kind, language, bytes, text, reason, value.

    Work is grouped by bytes, not by rows, so memory stays bounded whatever the sizes of the files.
    """
    pieces = pa.array(list(_groups(listing)), pa.large_list(_PIECE))
    frame = daft.from_arrow(pa.table({"pieces": pieces}))
    row = _read_group(
        daft.col("pieces"), config.max_document_bytes, config.invalid == "replace", config.text_field
    )
    frame = frame.select(row.alias("row")).explode("row").where(~daft.col("row").is_null())
    return frame.select(daft.functions.unnest(daft.col("row")))


def _groups(listing: Sequence[Found]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for piece in (piece for file in listing for piece in _pieces(file)):
        group.append(piece)
        size += piece["length"]
        if size >= _GROUP_BYTES or len(group) >= 10_000:
            yield group
            group, size = [], 0
    if group:
        yield group


def _pieces(file: Found) -> Iterator[dict[str, Any]]:
    whole = file.kind != kinds.LINES or file.reason is not None
    step = max(1, file.bytes) if whole else _GROUP_BYTES
    for offset in range(0, max(1, file.bytes), step):
        yield {
            "path": file.path,
            SOURCE: file.source,
            KIND: file.kind,
            LANGUAGE: file.language,
            "offset": offset,
            "length": min(step, file.bytes - offset),
            REASON: file.reason,
            VALUE: file.value,
        }


@batch_function(daft.DataType.from_arrow_type(pa.large_list(_ROW)), rows=1)
def _read_group(pieces: Any, limit: int, replace: bool, field: str) -> Any:
    groups = pieces.to_arrow().to_pylist()
    rows = [[row for piece in group for row in _read_piece(piece, limit, replace, field)] for group in groups]
    return pa.array(rows, pa.large_list(_ROW))


def _read_piece(piece: dict[str, Any], limit: int, replace: bool, field: str) -> list[dict[str, Any]]:
    if piece[REASON] is not None:
        return [_row(piece, piece[SOURCE], piece["length"], None, piece[REASON], piece[VALUE])]
    try:
        if piece[KIND] == kinds.LINES:
            return _read_lines(piece, limit, field)
        with Path(piece["path"]).open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        return [_row(piece, piece[SOURCE], piece["length"], None, "unreadable", error.strerror)]
    if len(content) > limit:
        # It grew after it was listed.
        return [_row(piece, piece[SOURCE], len(content), None, "too_large", f"over {limit}")]
    text, reason, value = encoding.decode(content, replace=replace)
    if text is None or piece[KIND] != kinds.JSON:
        return [_row(piece, piece[SOURCE], len(content), text, reason, value)]
    parsed = records.parse_document(text, field)
    single = len(parsed) == 1
    return [
        _row(
            piece,
            piece[SOURCE] if single else f"{piece[SOURCE]}#{number}",
            len(content) // len(parsed),
            *record,
        )
        for number, record in enumerate(parsed)
    ]


def _read_lines(piece: dict[str, Any], limit: int, field: str) -> list[dict[str, Any]]:
    path, offset = Path(piece["path"]), piece["offset"]
    lines = list(records.read_lines(path, offset, piece["length"], limit))
    parsed = iter(records.parse_lines([line.content for line in lines if line.content is not None], field))
    rows = []
    for line in lines:
        outcome = (None, "too_large", f"over {limit}") if line.content is None else next(parsed)
        rows.append(_row(piece, f"{piece[SOURCE]}#{line.offset}", line.size, *outcome))
    return rows


def _row(
    piece: dict[str, Any], source: str, size: int, text: str | None, reason: str | None, value: str | None
) -> dict[str, Any]:
    kind = kinds.TEXT if piece[KIND] in (kinds.LINES, kinds.JSON) else piece[KIND]
    values = (source, kind, piece[LANGUAGE], size, text, reason, value)
    return dict(zip(_NAMES, values, strict=True))

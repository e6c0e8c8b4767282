"""Step 1: read files in pieces and decode them; one row a document, with a reason where that failed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from weft.data import addresses, kinds, records
from weft.data.config import ReadConfig
from weft.data.engine import daft, tracked
from weft.data.readers import lines
from weft.data.readers.documents import documents
from weft.data.readers.part import Part
from weft.data.schema import BYTES, KIND, LANGUAGE, REASON, SOURCE, TEXT, VALUE
from weft.data.sources import Found

_GROUP_BYTES = 4 << 20
_GROUP_FILES = 10_000
_BATCH_ROWS = 1024
_BUFFER = 1 << 18
_STRING = pa.large_string()
_ROWS = pa.schema(
    [
        (SOURCE, _STRING),
        (KIND, _STRING),
        (LANGUAGE, _STRING),
        (BYTES, pa.int64()),
        (TEXT, _STRING),
        (REASON, _STRING),
        (VALUE, _STRING),
    ]
)


@dataclass(frozen=True)
class Piece:
    """Bytes ``[offset, offset + length)`` of a file; the whole of it unless it is plain JSON Lines."""

    file: Found
    offset: int
    length: int


def read(listing: Sequence[Found], config: ReadConfig) -> Any:
    """A frame with the columns source, kind, language, bytes, text, reason, value.

    Files are read as streams and given on in batches of about 4 MiB, small files together, so memory
    stays bounded whatever their sizes; the engine asks for the next batch when there is room.
    """
    return read_pieces([piece for file in listing for piece in pieces(file)], config)


def read_pieces(chosen: Sequence[Piece], config: ReadConfig) -> Any:
    """The same of some pieces of files."""
    operator = _Scan(list(_groups(chosen)), config)
    handle = daft.daft.ScanOperatorHandle.from_python_scan_operator(operator)
    return daft.DataFrame(daft.dataframe.dataframe.LogicalPlanBuilder.from_tabular_scan(scan_operator=handle))


class _Scan(daft.io.scan.ScanOperator):  # type: ignore[misc]
    """The source of the pipeline, one task a group of pieces; tasks pickle, so any machine can run them.

    ``daft.io.source.DataSource``, the newer interface, pulls a task to its end without waiting for
    what comes after it (0.7.24), and so holds all of a large file in memory.
    """

    def __init__(self, groups: list[tuple[Piece, ...]], config: ReadConfig) -> None:
        self._groups, self._config = groups, config

    def name(self) -> str:
        return "weft.read"

    def display_name(self) -> str:
        return self.name()

    def schema(self) -> Any:
        return daft.Schema.from_pyarrow_schema(_ROWS)

    def partitioning_keys(self) -> list[Any]:
        return []

    def can_absorb_filter(self) -> bool:
        return False

    def can_absorb_limit(self) -> bool:
        return False

    def can_absorb_select(self) -> bool:
        return False

    def multiline_display(self) -> list[str]:
        return [self.name()]

    def to_scan_tasks(self, pushdowns: Any) -> Iterator[Any]:
        for group in self._groups:
            yield daft.daft.ScanTask.python_factory_func_scan_task(
                module=__name__,
                func_name=read_group.__name__,
                func_args=(group, self._config),
                schema=self.schema()._schema,
                pushdowns=pushdowns,
                source_name=self.name(),
            )


def read_group(group: tuple[Piece, ...], config: ReadConfig) -> Iterator[Any]:
    """The documents of some pieces, as the engine's record batches; called by the engine, by its name."""
    batches = _group_batches(group, config)
    while (batch := tracked(next, (batches, None))) is not None:
        yield daft.recordbatch.RecordBatch.from_arrow_record_batches([batch], _ROWS)._recordbatch


def _group_batches(group: tuple[Piece, ...], config: ReadConfig) -> Iterator[pa.RecordBatch]:
    for large, run in itertools.groupby(group, _is_large):
        if large:
            for piece in run:
                found = _good_lines(piece, config)
                yield from _batches(_piece_rows(piece, config)) if found is None else _sliced(found)
        else:
            yield from _batches(row for piece in run for row in _piece_rows(piece, config))


def _is_large(piece: Piece) -> bool:
    return _is_plain_lines(piece.file) and piece.length == _GROUP_BYTES


def _sliced(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    return (batch.slice(start, _BATCH_ROWS) for start in range(0, len(batch), _BATCH_ROWS))


def _good_lines(piece: Piece, config: ReadConfig) -> pa.RecordBatch | None:
    """The same rows as those of :func:`_piece_rows`, column by column; None where these must be made one by
    one."""
    try:
        with _open(piece.file.path) as stream:
            limit, field = config.max_document_bytes, config.text_field
            found = records.parse_piece(stream, piece.offset, piece.length, limit, field)
    except OSError:
        return None
    if found is None:
        return None
    count, missing = len(found.texts), found.texts.is_null()
    columns = {
        SOURCE: pa.array([f"{piece.file.source}#{offset}" for offset in found.offsets.tolist()], _STRING),
        KIND: pa.repeat(kinds.TEXT, count),
        LANGUAGE: pa.nulls(count),
        BYTES: pa.array(found.sizes),
        TEXT: found.texts,
        REASON: pc.if_else(missing, pa.scalar("no_text"), None),
        VALUE: pc.if_else(missing, pa.scalar(field), None),
    }
    return pa.record_batch([columns[field.name].cast(field.type) for field in _ROWS], schema=_ROWS)


def _groups(chosen: Sequence[Piece]) -> Iterator[tuple[Piece, ...]]:
    group: list[Piece] = []
    size = 0
    for piece in chosen:
        group.append(piece)
        size += piece.length
        if size >= _GROUP_BYTES or len(group) >= _GROUP_FILES:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def pieces(file: Found) -> Iterator[Piece]:
    """A file of plain JSON Lines in pieces of 4 MiB, any other as one."""
    step = _GROUP_BYTES if _is_plain_lines(file) else max(1, file.bytes)
    for offset in range(0, max(1, file.bytes), step):
        yield Piece(file, offset, min(step, file.bytes - offset))


def _is_plain_lines(file: Found) -> bool:
    return file.reason is None and file.kind == kinds.LINES and kinds.compression(Path(file.path)) is None


def _piece_rows(piece: Piece, config: ReadConfig) -> Iterator[tuple[str, Part]]:
    """``(source, part)`` of every document; a file that the system cannot read (further) has a reason."""
    file = piece.file
    if file.reason is not None:
        yield file.source, Part("", file.bytes, None, file.reason, file.value, file.kind or "", file.language)
        return
    given = False
    try:
        with _open(file.path) as stream:
            for part in _parts(stream, piece, config):
                given = True
                yield file.source + part.name, part
    except OSError as error:
        name = f"{file.source}#rest-{piece.offset}" if given else file.source
        if piece.offset and not given:
            name = f"{file.source}#{piece.offset}-"
        yield name, Part("", piece.length, None, "unreadable", error.strerror or str(error))


def _open(path: str) -> BinaryIO:
    return addresses.open_address(path) if addresses.is_address(path) else Path(path).open("rb", _BUFFER)


def _parts(stream: BinaryIO, piece: Piece, config: ReadConfig) -> Iterator[Part]:
    file = piece.file
    if _is_plain_lines(file):
        return lines.read_piece(stream, piece.offset, piece.length, config)
    path = PurePosixPath(urlsplit(file.path).path) if addresses.is_address(file.path) else Path(file.path)
    return documents(stream, path, file.kind or kinds.TEXT, file.language, config)


def _batches(rows: Iterable[tuple[str, Part]]) -> Iterator[pa.RecordBatch]:
    group: list[tuple[str, Part]] = []
    size = 0
    for source, part in rows:
        group.append((source, part))
        size += part.size if part.text is not None else 0
        if size >= _GROUP_BYTES or len(group) >= _BATCH_ROWS:
            yield _batch(group)
            group, size = [], 0
    if group:
        yield _batch(group)


def _batch(group: list[tuple[str, Part]]) -> pa.RecordBatch:
    parts = [part for _, part in group]
    columns: dict[str, list[Any]] = {
        SOURCE: [source for source, _ in group],
        KIND: [part.kind for part in parts],
        LANGUAGE: [part.language for part in parts],
        BYTES: [part.size for part in parts],
        TEXT: [part.text for part in parts],
        REASON: [part.reason for part in parts],
        VALUE: [part.value for part in parts],
    }
    try:
        return pa.record_batch(columns, schema=_ROWS)
    except UnicodeEncodeError:
        # Lone surrogates, which some formats let through in texts, names and values.
        for name in (SOURCE, TEXT, VALUE):
            columns[name] = [
                text and text.encode("utf-8", "replace").decode("utf-8") for text in columns[name]
            ]
        return pa.record_batch(columns, schema=_ROWS)

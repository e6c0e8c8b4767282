"""Parquet: one record a row, named by its number, read a few megabytes at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from weft.data import encoding
from weft.data.config import ReadConfig
from weft.data.readers.part import Broken, Part, too_large
from weft.data.readers.unpack import read_whole

_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 1024
_RATIO_FROM = 16 << 20
_ERRORS = (pa.ArrowException, OSError, ValueError)


def read(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """The text column of every row; a file inside an archive must fit in ``max_document_bytes``."""
    if not stream.seekable():
        content, broken = read_whole(stream, config.max_document_bytes)
        if broken is not None:
            raise broken
        if len(content) > config.max_document_bytes:
            yield too_large("", len(content), config.max_document_bytes)
            return
        stream = io.BytesIO(content)
    try:
        file = pq.ParquetFile(stream, buffer_size=1 << 20)
    except _ERRORS as error:
        raise _damaged(error) from None
    _check(file, config.text_field)
    row = 0
    for batch in _batches(file, config):
        for text in batch.column(0).to_pylist():
            yield _part(f"#{row}", text, config)
            row += 1


def _check(file: Any, field: str) -> None:
    schema = file.schema_arrow
    if field not in schema.names:
        raise Broken("no_text", f"columns are {', '.join(schema.names)}")
    kind = schema.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    textual = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_binary, pa.types.is_large_binary,
    )  # fmt: skip
    if not any(test(kind) for test in textual):
        raise Broken("no_text", f"column {field} is {kind}, not text")


def _batches(file: Any, config: ReadConfig) -> Iterator[Any]:
    """Record batches of one column, each of about 4 MiB."""
    column = file.schema_arrow.names.index(config.text_field)
    for number in range(file.num_row_groups):
        try:
            group = file.metadata.row_group(number)
            chunk = _chunk(group, config.text_field)
            size = group.total_byte_size if chunk is None else chunk.total_uncompressed_size
            packed = size if chunk is None else chunk.total_compressed_size
            if size > max(_RATIO_FROM, config.max_ratio * packed):
                raise Broken("zip_bomb", f"unpacks to more than {config.max_ratio} times its size")
            rows = min(_BATCH_ROWS, max(1, _BATCH_BYTES * group.num_rows // max(1, size)))
            name = file.schema_arrow.names[column]
            yield from file.iter_batches(rows, row_groups=[number], columns=[name], use_threads=False)
        except _ERRORS as error:
            raise _damaged(error) from None


def _chunk(group: Any, field: str) -> Any:
    chunks = (group.column(number) for number in range(group.num_columns))
    return next((chunk for chunk in chunks if chunk.path_in_schema == field), None)


def _part(name: str, text: str | bytes | None, config: ReadConfig) -> Part:
    if text is None:
        return Part(name, 0, None, "no_text", f"{config.text_field} is null")
    content = text.encode("utf-8") if isinstance(text, str) else text
    if len(content) > config.max_document_bytes:
        return too_large(name, len(content), config.max_document_bytes)
    if isinstance(text, str):
        return Part(name, len(content), text)
    return Part(name, len(content), *encoding.decode(content, replace=config.invalid == "replace"))


def _damaged(error: Exception) -> Exception:
    """Broken, unless it is the operating system that could not read the file."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return Broken("damaged", str(error).replace("\n", " "))

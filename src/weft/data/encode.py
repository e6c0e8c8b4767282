"""Documents to token ids, one file of documents at a time, so that an interruption costs one file."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.core import manifest
from weft.core.files import atomic_directory
from weft.core.progress import Progress
from weft.data import documents
from weft.data.indexed import token_type
from weft.data.schema import BYTES, ID, LANGUAGE, SOURCE, SPLITS, TEXT, TOKENS
from weft.tokenizer import Tokenizer
from weft.tokenizer.fast import ParityError

SIDECAR = pa.schema(
    [
        (ID, pa.string()),
        (SOURCE, pa.string()),
        (LANGUAGE, pa.string()),
        (TOKENS, pa.int32()),
        (BYTES, pa.int64()),
    ]
)
TOKENS_FILE, SIDECAR_FILE = "tokens.bin", "sidecar.parquet"
_COMMAND = "encode"
_BATCH_BYTES = 1 << 20
# The encoder has threads of its own; a second file is read and written while it works on the first.
_FILES = 2


def encode_parts(data_folder: Path, tokenizer: Tokenizer, work: Path, inputs: Mapping[str, str]) -> Path:
    """Encode each file of documents into ``work/<split>/<name>``, a folder of tokens and sidecar.

    Folders that are there already, of the same ``inputs``, stay as they are. Returns ``work``.
    """
    try:
        return _encode_parts(data_folder, tokenizer, work, dict(inputs), fast=True)
    except ParityError:
        with Progress("encode") as progress:
            progress.say("The fast encoder and the plain one disagree; the plain one starts again.")
        shutil.rmtree(work)
        return _encode_parts(data_folder, tokenizer, work, dict(inputs), fast=False)


def _encode_parts(
    data_folder: Path, tokenizer: Tokenizer, work: Path, inputs: dict[str, str], *, fast: bool
) -> Path:
    if not manifest.is_done(work, command=_COMMAND, config="", inputs=inputs):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        manifest.write(work, command=_COMMAND, config="", inputs=inputs, figures={})
    total = sum(documents.byte_count(data_folder, split) for split in SPLITS)
    with (
        Progress("encode", total, "B") as progress,
        ThreadPoolExecutor(_FILES, thread_name_prefix="weft-encode") as workers,
    ):

        def encode(file: Path, folder: Path) -> None:
            with atomic_directory(folder) as partial:
                _encode_file(file, tokenizer, partial, progress, fast=fast)

        wanted = [
            (file, work / split / file.stem)
            for split in SPLITS
            for file in documents.files(data_folder, split)
        ]
        todo = [workers.submit(encode, file, folder) for file, folder in wanted if not folder.exists()]
        try:
            for future in todo:
                future.result()
        finally:
            for future in todo:
                future.cancel()
    return work


def _encode_file(file: Path, tokenizer: Tokenizer, folder: Path, progress: Progress, *, fast: bool) -> None:
    dtype = token_type(tokenizer.vocab_size)
    with (
        (folder / TOKENS_FILE).open("wb") as stream,
        pq.ParquetWriter(folder / SIDECAR_FILE, SIDECAR, compression="zstd") as sidecar,
    ):
        for table in documents.read_file(file, [ID, SOURCE, LANGUAGE, TEXT]):
            for part in _by_bytes(table):
                ids, ends = tokenizer.encode_flat(part.column(TEXT).to_pylist(), fast=fast)
                stream.write(np.insert(ids, ends, tokenizer.eos_id).astype(dtype).tobytes())
                sizes = pc.binary_length(part.column(TEXT)).cast(pa.int64())
                counts = pa.array(np.diff(ends, prepend=0) + 1, pa.int32())
                rows = part.drop_columns([TEXT]).append_column(TOKENS, counts).append_column(BYTES, sizes)
                sidecar.write_table(rows.cast(SIDECAR))
                progress.advance(pc.sum(sizes).as_py() or 0)


def _by_bytes(table: pa.Table) -> Iterator[pa.Table]:
    """Slices of about a mebibyte of text: enough for all cores, little memory."""
    sizes = pc.binary_length(table.column(TEXT)).to_numpy()
    group = np.cumsum(sizes) // _BATCH_BYTES
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(sizes)]
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            yield table.slice(start, stop - start)

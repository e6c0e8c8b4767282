"""Token shards: the documents of each split as token ids, ready for random access.

A folder of shards holds for every split ``<split>.bin`` and ``<split>.idx`` (Megatron, see
:mod:`weft.data.indexed`), a sidecar ``<split>.parquet`` with one row a document in the same order, and
``manifest.json`` with the hashes of all of them and the fingerprint of the tokenizer. A document is
its tokens followed by the end of text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.core import manifest
from weft.core.errors import DataError
from weft.core.files import atomic_directory, hash_file
from weft.core.progress import Progress
from weft.data import documents
from weft.data.indexed import ShardReader, token_type, write_index
from weft.data.schema import BYTES, ID, LANGUAGE, SOURCE, SPLITS, TEXT, TOKENS
from weft.tokenizer import Tokenizer
from weft.tokenizer.fast import ParityError

COMMAND = "shards"
_BATCH_BYTES = 1 << 20
_SIDECAR = pa.schema(
    [
        (ID, pa.string()),
        (SOURCE, pa.string()),
        (LANGUAGE, pa.string()),
        (TOKENS, pa.int32()),
        (BYTES, pa.int64()),
    ]
)


def write(data_folder: Path, tokenizer: Tokenizer, out: Path) -> dict[str, Any]:
    """Encode ``data_folder/documents`` into ``out`` and return the manifest; does nothing when it is done.

    Raises DataError when the documents are missing, ResourceError when the disk is full.
    """
    inputs = {"documents": documents.fingerprint(data_folder), "tokenizer": tokenizer.fingerprint}
    if manifest.is_done(out, command=COMMAND, config="", inputs=inputs):
        return manifest.read(out) or {}
    figures: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "token_type": np.dtype(token_type(tokenizer.vocab_size)).name,
    }
    total = sum(documents.byte_count(data_folder, split) for split in SPLITS)
    with atomic_directory(out) as folder:
        with Progress("encode", total, "B") as progress:
            for split in SPLITS:
                figures[split] = _write_split(data_folder, split, tokenizer, folder, progress)
        names = tuple(f"{split}.{suffix}" for split in SPLITS for suffix in ("bin", "idx", "parquet"))
        return manifest.write(
            folder, command=COMMAND, config="", inputs=inputs, figures=figures, outputs=names
        )


@dataclass(frozen=True)
class Shards:
    """An opened split: its reader and what the manifest says of it."""

    reader: ShardReader
    split: str
    bytes: int
    eos_id: int
    vocab_size: int
    tokenizer_fingerprint: str
    index_hash: str
    fingerprint: str

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """DataError unless these shards were made with exactly this tokenizer."""
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise DataError(
                f"The shards {self.reader.prefix.parent} were made with another tokenizer than this one; "
                "run weft data with this tokenizer, or use the tokenizer of the shards."
            )


def open_split(
    folder: str | Path, split: str, *, verify: bool = True, reader: ShardReader | None = None
) -> Shards:
    """Open one split of a shards folder and check it against the hashes in its manifest.

    ``verify=False`` skips hashing the tokens (worker processes of a run that has verified already).
    ``reader`` is given where the tokens are not in the folder.
    Raises DataError when anything is missing, changed or cut short, or the split has no document.
    """
    folder = Path(folder)
    record = manifest.read(folder)
    if record is None or record.get("command") != COMMAND:
        raise DataError(f"There are no finished shards in {folder}; run weft data first, or check the path.")
    if split not in record["figures"]:
        raise DataError(f"The shards {folder} have no split {split!r}; choose one of {', '.join(SPLITS)}.")
    reader = ShardReader(folder / split) if reader is None else reader
    for name in (f"{split}.idx", f"{split}.bin") if verify else ():
        if hash_file(folder / name) != record["outputs"][name]:
            raise DataError(
                f"The shard {folder / name} is damaged: its content is not what its manifest recorded; "
                f"delete {folder} and run weft data again."
            )
    if not len(reader):
        raise DataError(
            f"The split {split!r} in {folder} has no documents; give more text or raise split.{split}."
        )
    figures = record["figures"]
    return Shards(
        reader,
        split,
        bytes=figures[split]["bytes"],
        eos_id=figures["eos_id"],
        vocab_size=figures["vocab_size"],
        tokenizer_fingerprint=record["inputs"]["tokenizer"],
        index_hash=record["outputs"][f"{split}.idx"],
        fingerprint=record["outputs"][f"{split}.bin"],
    )


def _write_split(
    data_folder: Path, split: str, tokenizer: Tokenizer, folder: Path, progress: Progress
) -> dict[str, int]:
    try:
        return _encode_split(data_folder, split, tokenizer, folder, progress, fast=True)
    except ParityError:
        progress.say(
            f"The fast encoder and the plain one disagree on {split}; the plain one starts it again."
        )
        return _encode_split(data_folder, split, tokenizer, folder, progress, fast=False)


def _encode_split(
    data_folder: Path, split: str, tokenizer: Tokenizer, folder: Path, progress: Progress, *, fast: bool
) -> dict[str, int]:
    dtype = token_type(tokenizer.vocab_size)
    lengths: list[int] = []
    byte_count = 0
    columns = [ID, SOURCE, LANGUAGE, TEXT]
    with (
        (folder / f"{split}.bin").open("wb") as stream,
        pq.ParquetWriter(folder / f"{split}.parquet", _SIDECAR, compression="zstd") as sidecar,
    ):
        for table in documents.read(data_folder, split, columns):
            for part in _by_bytes(table):
                ids, ends = tokenizer.encode_flat(part.column(TEXT).to_pylist(), fast=fast)
                stream.write(np.insert(ids, ends, tokenizer.eos_id).astype(dtype).tobytes())
                sizes = pc.binary_length(part.column(TEXT)).cast(pa.int64())
                counts = pa.array(np.diff(ends, prepend=0) + 1, pa.int32())
                rows = part.drop_columns([TEXT]).append_column(TOKENS, counts).append_column(BYTES, sizes)
                sidecar.write_table(rows.cast(_SIDECAR))
                lengths += counts.to_pylist()
                part_bytes = pc.sum(sizes).as_py() or 0
                byte_count += part_bytes
                progress.advance(part_bytes)
    write_index(folder / f"{split}.idx", np.asarray(lengths, np.int64), dtype)
    return {"documents": len(lengths), "tokens": sum(lengths), "bytes": byte_count}


def _by_bytes(table: pa.Table) -> Iterator[pa.Table]:
    """Slices of about a mebibyte of text: enough for all cores, little memory."""
    sizes = pc.binary_length(table.column(TEXT)).to_numpy()
    group = np.cumsum(sizes) // _BATCH_BYTES
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(sizes)]
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            yield table.slice(start, stop - start)

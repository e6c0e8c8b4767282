"""Token shards: the documents of each split as token ids, ready for random access.

A folder of shards holds for every split ``<split>.bin`` and ``<split>.idx`` (Megatron, see
:mod:`weft.data.indexed`), a sidecar ``<split>.parquet`` with one row a document in the same order, and
``manifest.json`` with the hashes of all of them and the fingerprint of the tokenizer. A document is
its tokens followed by the end of text.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.core import manifest
from weft.core.errors import DataError
from weft.core.files import atomic_directory, disk_errors, hash_file
from weft.data import documents
from weft.data.encode import SIDECAR, SIDECAR_FILE, TOKENS_FILE, encode_parts
from weft.data.indexed import ShardReader, token_type, write_index
from weft.data.schema import BYTES, SPLITS, TOKENS
from weft.tokenizer import Tokenizer

COMMAND = "shards"


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
    with disk_errors(out):
        parts = encode_parts(data_folder, tokenizer, out.with_name(f".{out.name}.parts"), inputs)
    with atomic_directory(out) as folder:
        for split in SPLITS:
            figures[split] = _join(parts / split, folder / split, token_type(tokenizer.vocab_size))
        names = tuple(f"{split}.{suffix}" for split in SPLITS for suffix in ("bin", "idx", "parquet"))
        record = manifest.write(
            folder, command=COMMAND, config="", inputs=inputs, figures=figures, outputs=names
        )
    shutil.rmtree(parts)
    return record


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


def _join(parts: Path, prefix: Path, dtype: npt.DTypeLike) -> dict[str, int]:
    """The encoded files of a split, one behind another, as ``<prefix>.bin``, ``.idx`` and ``.parquet``."""
    lengths = [np.zeros(0, np.int64)]
    size = 0
    with (
        prefix.with_suffix(".bin").open("wb") as stream,
        pq.ParquetWriter(prefix.with_suffix(".parquet"), SIDECAR, compression="zstd") as sidecar,
    ):
        for part in sorted(parts.glob("*")):
            with (part / TOKENS_FILE).open("rb") as tokens:
                shutil.copyfileobj(tokens, stream, 1 << 20)
            with pq.ParquetFile(part / SIDECAR_FILE) as source:
                for group in range(source.num_row_groups):
                    table = source.read_row_group(group)
                    sidecar.write_table(table)
                    lengths.append(table[TOKENS].to_numpy())
                    size += pc.sum(table[BYTES]).as_py() or 0
    whole = np.concatenate(lengths).astype(np.int64)
    write_index(prefix.with_suffix(".idx"), whole, dtype)
    return {"documents": len(whole), "tokens": int(whole.sum()), "bytes": size}

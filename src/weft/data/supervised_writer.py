"""One split of supervised examples as files: tokens, an index, a sidecar, and labels where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weft.data.forms import Made
from weft.data.indexed import token_type, write_index
from weft.data.schema import BYTES, ID, LANGUAGE, SOURCE, TOKENS
from weft.tokenizer import Tokenizer

ANSWERS = "answers"
LABELS = "labels"
_GROUP = 1000
_SIDECAR = pa.schema(
    [
        (ID, pa.string()),
        (SOURCE, pa.string()),
        (LANGUAGE, pa.string()),
        (TOKENS, pa.int32()),
        (BYTES, pa.int64()),
        (ANSWERS, pa.list_(pa.int32())),
    ]
)


class SplitWriter:
    """One split of the folder, written as examples come."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, labelled: bool) -> None:
        self._folder, self._split = folder, split
        self._dtype = token_type(tokenizer.vocab_size)
        self._stream = (folder / f"{split}.bin").open("wb")
        self.labelled = labelled
        self._labels = (folder / f"{split}.{LABELS}").open("wb") if labelled else None
        self._sidecar = pq.ParquetWriter(folder / f"{split}.parquet", _SIDECAR, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._lengths: list[int] = []
        self._bytes = 0

    def add(self, identity: str, where: str, made: Made, size: int) -> None:
        """One document; ``size``: bytes of its example, 0 where another document counts them."""
        self._stream.write(np.asarray(made.ids, self._dtype).tobytes())
        if self._labels is not None:
            self._labels.write(np.asarray(made.labels, np.int32).tobytes())
        self._lengths.append(len(made.ids))
        self._bytes += size
        row = {ID: identity, SOURCE: where, LANGUAGE: None, TOKENS: len(made.ids), BYTES: size}
        self._rows.append(row | {ANSWERS: made.answers})
        if len(self._rows) == _GROUP:
            self._flush()

    def close(self) -> dict[str, int]:
        """Finish the files and say what they hold: documents, tokens and bytes."""
        self._flush()
        self.release()
        write_index(self._folder / f"{self._split}.idx", np.asarray(self._lengths, np.int64), self._dtype)
        return {"documents": len(self._lengths), "tokens": sum(self._lengths), "bytes": self._bytes}

    def release(self) -> None:
        """Close the files; a second time does nothing."""
        self._stream.close()
        if self._labels is not None:
            self._labels.close()
        self._sidecar.close()

    def _flush(self) -> None:
        self._sidecar.write_table(pa.Table.from_pylist(self._rows, _SIDECAR))
        self._rows = []

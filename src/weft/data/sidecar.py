"""What the sidecar of a split says about its documents, read column by column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.core.errors import DataError
from weft.data.schema import BYTES, SOURCE


def columns(prefix: Path, names: list[str]) -> pa.Table:
    """Columns of ``<prefix>.parquet``; DataError when it is missing, damaged or has no such column."""
    file = prefix.with_name(f"{prefix.name}.parquet")
    try:
        return pq.read_table(file, columns=names)
    except FileNotFoundError:
        raise DataError(f"The sidecar {file} is missing; run weft data again.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"The sidecar {file} cannot be read ({error}); delete its folder and run weft data again."
        ) from error


def below(prefix: Path, source: str) -> tuple[npt.NDArray[np.bool_], int]:
    """Which documents [documents] have a source name that begins with ``source``, and their bytes.

    Raises DataError, with a few of the names there are, when none has.
    """
    table = columns(prefix, [SOURCE, BYTES])
    mask = pc.starts_with(table[SOURCE], source)
    chosen = np.asarray(mask.to_numpy()).astype(bool)
    if not chosen.any():
        examples = ", ".join(sorted(set(table[SOURCE].slice(0, 1000).to_pylist()))[:3])
        raise DataError(
            f"No document of {prefix} comes from {source!r}; its sources are named like "
            f"{examples or 'nothing'}."
        )
    return chosen, int(pc.sum(table[BYTES].filter(mask)).as_py() or 0)

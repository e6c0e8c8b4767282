"""Steps 11 to 13: what is decided by comparing documents, in memory for partitions and near duplicates.

Equal texts lie in one partition, so exact duplicates are found there, twice: first (:meth:`Comparing.run`) to
compare the ids and signatures of those that are left, then (:meth:`Comparing.judged`) when the partition is
written. In between lie the near duplicates by partition and the bounds of the splits, as files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.core.files import atomic_directory, disk_errors
from weft.data import partitions
from weft.data.config import DataConfig
from weft.data.engine import daft, write_errors
from weft.data.schema import DOCUMENTS, ID, REASON, SOURCE, TEXT, VALUE
from weft.data.steps.exact import drop_exact_duplicates
from weft.data.steps.identify import BUCKET, DRAW, bucket_of, buckets_of
from weft.data.steps.near import KEPT, band_columns, find_near_duplicates, mark_near_duplicates
from weft.data.steps.split import split, thresholds

JUDGED = [SOURCE, ID, DRAW, REASON, VALUE]
"""The columns that :meth:`Comparing.judged` needs."""
_BOUNDS = "bounds.json"
_ORDER = [(ID, "ascending"), (SOURCE, "ascending")]
_CLUSTERS = pa.schema([(ID, pa.large_string()), (KEPT, pa.large_string())])


@dataclass(frozen=True)
class Comparing:
    """The comparison of the documents of ``clean``, in ``buckets`` partitions, with files below ``work``."""

    config: DataConfig
    clean: Path
    buckets: int
    work: Path

    def run(self, check: Callable[[], None]) -> None:
        """Make the files that :meth:`judged` needs, unless they are there."""
        if self._compared.exists():
            return
        earlier = _earlier(self.config.duplicates.against)
        if earlier is not None and not self._known.exists():
            with atomic_directory(self._known) as partial, write_errors(partial):
                named = (
                    earlier.select(ID).distinct().with_column(BUCKET, buckets_of(daft.col(ID), self.buckets))
                )
                named.write_parquet(str(partial), partition_cols=[BUCKET])
                check()
        self._survivors.mkdir(exist_ok=True)
        todo = [n for n in partitions.numbers(self.clean) if not (self._survivors / f"{n}.parquet").exists()]
        partitions.each("compare", todo, self._write_survivors, self._survivors)
        check()
        with atomic_directory(self._compared) as partial:
            clusters = self._clusters(earlier)
            check()
            self._write_clusters(clusters, partial)
            bounds = thresholds(_draws(self._survivors, clusters), self.config.split)
            (partial / _BOUNDS).write_text(json.dumps(bounds), encoding="utf-8")
        shutil.rmtree(self._survivors)

    def judged(self, rows: pa.Table, number: int) -> pa.Table:
        """All rows of partition ``number``, sorted by id and source, with final reason, value and split."""
        rows = drop_exact_duplicates(rows.sort_by(_ORDER), self._ids_known(number))
        clusters = self._compared / f"{number}.parquet"
        if clusters.exists():
            rows = mark_near_duplicates(rows, pq.read_table(clusters))
        test, valid = json.loads((self._compared / _BOUNDS).read_text(encoding="utf-8"))
        return split(rows, (test, valid))

    @property
    def _compared(self) -> Path:
        return self.work / "compared"

    @property
    def _survivors(self) -> Path:
        return self.work / "survivors"

    @property
    def _known(self) -> Path:
        return self.work / "known"

    def _ids_known(self, number: int) -> pa.Array | None:
        """Ids of the partition that earlier data folders have; None without such folders."""
        if not self._known.exists():
            return None
        chosen = sorted((self._known / f"{BUCKET}={number}").glob("*.parquet"))
        ids = [pq.ParquetFile(file).read(columns=[ID])[ID].cast(pa.large_string()) for file in chosen]
        chunks = [chunk for column in ids for chunk in column.chunks]
        return pa.chunked_array(chunks, pa.large_string()).combine_chunks()

    def _write_survivors(self, number: int) -> None:
        """Id, draw and signature of the documents of a partition that are neither dropped nor copies."""
        bands = band_columns(self.config.duplicates) if self.config.duplicates.near else []
        rows = partitions.read(self.clean, number, [*JUDGED, *bands]).sort_by(_ORDER)
        rows = drop_exact_duplicates(rows, self._ids_known(number))
        left = rows.filter(pc.is_null(rows[REASON])).select([ID, DRAW, *bands])
        partial = self._survivors / f".{number}.partial"
        with disk_errors(partial):
            pq.write_table(left, partial, compression="none")
            partial.replace(self._survivors / f"{number}.parquet")

    def _clusters(self, earlier: Any) -> dict[str, str]:
        config = self.config.duplicates
        if not config.near:
            return {}
        scratch = self.work / "near"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        signed = daft.read_parquet(str(self._survivors / "*.parquet")).select(ID, *band_columns(config))
        texts = daft.read_parquet(str(self.clean / "*" / "*" / "*.parquet")).select(ID, TEXT)
        found = find_near_duplicates(signed, texts, config, scratch, earlier)
        shutil.rmtree(scratch)
        return found

    def _write_clusters(self, clusters: dict[str, str], folder: Path) -> None:
        by_bucket: dict[int, list[str]] = {}
        for name in sorted(clusters):
            by_bucket.setdefault(bucket_of(name, self.buckets), []).append(name)
        for number, names in by_bucket.items():
            table = pa.table({ID: names, KEPT: [clusters[name] for name in names]}, schema=_CLUSTERS)
            pq.write_table(table, folder / f"{number}.parquet")


def _draws(survivors: Path, clusters: dict[str, str]) -> npt.NDArray[np.float64]:
    """The draws of all documents that stay."""
    gone = pa.array(list(clusters), pa.large_string())

    def left() -> Iterator[npt.NDArray[np.float64]]:
        for file in survivors.glob("*.parquet"):
            rows = pq.read_table(file, columns=[ID, DRAW])
            yield rows.filter(pc.invert(pc.is_in(rows[ID], gone)))[DRAW].to_numpy()

    return np.concatenate([np.zeros(0), *left()])


def _earlier(folders: Sequence[str]) -> Any:
    """Id and text of the documents of data folders made before, None without any."""
    files = [str(Path(folder).absolute() / DOCUMENTS / "*" / "*.parquet") for folder in folders]
    return daft.read_parquet(files).select(ID, TEXT) if files else None

"""Step 14: documents and dropped documents as Parquet, one partition of the hash at a time.

Each partition is a folder below ``work``, whole or absent, so an interruption costs one partition. At the end
its files get their names among the documents, as links to the same content.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.core.files import atomic_directory
from weft.core.progress import Progress
from weft.data.engine import daft
from weft.data.funnel import LINES, Funnel
from weft.data.schema import BYTES, ID, KIND, LANGUAGE, PERSONAL, REASON, SOURCE, SPLITS, TEXT, VALUE
from weft.data.steps.language import MIXED
from weft.data.steps.lines import COMMON_LINES
from weft.data.steps.quality import C4_LINES
from weft.data.steps.split import SPLIT

_KEPT = [ID, SOURCE, KIND, LANGUAGE, BYTES, TEXT]
_COUNTED = (PERSONAL, C4_LINES, COMMON_LINES, MIXED)
_ROW_GROUP = 1024
_LOST = "dropped.parquet"
_COUNTS = "counts.json"


def write_partitions(clean: Path, verdicts: Any, work: Path) -> Funnel:
    """Join texts and verdicts into ``work/part-*``, those that are not there yet; returns the counts of all.

    Rows are sorted by id, so equal documents give equal files. One partition is written by a thread while the
    engine joins the next, so two lie in memory.
    """
    buckets = sorted({folder.name for folder in clean.glob("*/bucket=*")})
    wanted = {work / f"part-{number:05d}": bucket for number, bucket in enumerate(buckets)}
    with (
        Progress("write", len(wanted), "parts") as progress,
        ThreadPoolExecutor(1, thread_name_prefix="weft-write") as writer,
    ):
        writing: Future[None] | None = None
        for folder, bucket in wanted.items():
            if not folder.exists():
                table = _partition(clean, bucket, verdicts)
                if writing:
                    writing.result()
                writing = writer.submit(_write_partition, table, folder)
                del table
            progress.advance()
        if writing:
            writing.result()
    funnel = Funnel()
    for folder in wanted:
        funnel.merge(json.loads((folder / _COUNTS).read_text(encoding="utf-8")))
    return funnel


def gather_partitions(work: Path, kept: Path, dropped: Path) -> tuple[str, ...]:
    """Name the files of ``work`` ``kept/<split>/part-*`` and ``dropped/part-*``; returns the kept names."""
    dropped.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (kept / split).mkdir()
    return tuple(_named(work, kept, dropped))


def _named(work: Path, kept: Path, dropped: Path) -> Iterator[str]:
    for folder in sorted(work.glob("part-*")):
        part = f"{folder.name}.parquet"
        _link(folder / _LOST, dropped / part)
        for split in SPLITS:
            if (file := folder / f"{split}.parquet").exists():
                _link(file, kept / split / part)
                yield f"{split}/{part}"


def _partition(clean: Path, bucket: str, verdicts: Any) -> pa.Table:
    frame = daft.read_parquet(str(clean / "*" / bucket / "*.parquet"))
    columns = [name for name in (*_KEPT, *_COUNTED) if name in frame.column_names]
    frame = frame.select(*columns).join(verdicts, on=SOURCE)
    return frame.to_arrow().sort_by([(ID, "ascending"), (SOURCE, "ascending")])


def _write_partition(table: pa.Table, folder: Path) -> None:
    with atomic_directory(folder) as partial:
        lost = table.filter(pc.is_valid(table[REASON]))
        _write(lost.select([*_KEPT, REASON, VALUE]), partial / _LOST)
        for split in SPLITS:
            chosen = table.filter(pc.equal(table[SPLIT], split))
            if len(chosen):
                columns = [*_KEPT, *(name for name in (MIXED,) if name in table.column_names)]
                _write(chosen.select(columns), partial / f"{split}.parquet")
        (partial / _COUNTS).write_text(json.dumps(_count(table, lost).record()), encoding="utf-8")


def _count(table: pa.Table, lost: pa.Table) -> Funnel:
    funnel = Funnel()
    funnel.add("dropped", lost[REASON], lost[BYTES])
    kept = table.filter(pc.is_null(table[REASON]))
    if len(kept):
        funnel.add("splits", kept[SPLIT], kept[BYTES])
        funnel.add("languages", kept[LANGUAGE], kept[BYTES])
    for name, group in ((PERSONAL, PERSONAL), (C4_LINES, LINES)):
        if name in kept.column_names:
            funnel.find(group, kept[name].combine_chunks())
    if COMMON_LINES in kept.column_names:
        common = kept[COMMON_LINES].combine_chunks()
        funnel.find(LINES, pa.StructArray.from_arrays([common], names=["common"]))
    if MIXED in kept.column_names:
        funnel.mix(pc.sum(kept[MIXED]).as_py() or 0)
    return funnel


def _write(table: pa.Table, file: Path) -> None:
    pq.write_table(table.combine_chunks(), file, compression="zstd", row_group_size=_ROW_GROUP)


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # a file system without links
        shutil.copyfile(file, name)

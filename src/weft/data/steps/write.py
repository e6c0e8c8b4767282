"""Step 14: documents and dropped documents as Parquet, one partition of the hash at a time.

Each partition is a folder below ``work``, whole or absent, so an interruption costs one partition. At the end
its files get their names among the documents, as links to the same content.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.core.files import atomic_directory
from weft.data import partitions
from weft.data.comparing import JUDGED
from weft.data.funnel import LINES, Funnel
from weft.data.schema import BYTES, ID, KIND, LANGUAGE, PERSONAL, REASON, SOURCE, SPLITS, TEXT, VALUE
from weft.data.steps.language import MIXED
from weft.data.steps.lines import COMMON_LINES
from weft.data.steps.quality import C4_LINES
from weft.data.steps.split import SPLIT

_KEPT = [ID, SOURCE, KIND, LANGUAGE, BYTES, TEXT]
_COUNTED = (PERSONAL, C4_LINES, COMMON_LINES, MIXED)
Judge = Callable[[pa.Table, int], pa.Table]
_ROW_GROUP = 1024
_LOST = "dropped.parquet"
_COUNTS = "counts.json"


def write_partitions(clean: Path, judge: Judge, work: Path) -> Funnel:
    """Write ``work/part-*``, those that are not there yet; returns the counts of all.

    ``judge`` gives the rows of a partition their final reason, value and split, in an order that makes equal
    documents equal files.
    """
    wanted = {number: work / f"part-{at:05d}" for at, number in enumerate(partitions.numbers(clean))}
    work.mkdir(exist_ok=True)
    todo = {number: folder for number, folder in wanted.items() if not folder.exists()}

    def write(number: int) -> None:
        rows = partitions.read(clean, number, [*_KEPT, *_COUNTED, *JUDGED])
        _write_partition(judge(rows, number), todo[number])

    partitions.each("write", list(todo), write, work)
    funnel = Funnel()
    for folder in wanted.values():
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

"""Step 14: documents and dropped documents as Parquet, one partition of the hash at a time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.data.engine import daft
from weft.data.schema import BYTES, ID, KIND, LANGUAGE, REASON, SOURCE, SPLITS, TEXT, VALUE
from weft.data.steps.language import MIXED
from weft.data.steps.lines import COMMON_LINES
from weft.data.steps.personal import PERSONAL
from weft.data.steps.quality import C4_LINES
from weft.data.steps.split import SPLIT

_KEPT = [ID, SOURCE, KIND, LANGUAGE, BYTES, TEXT]
_COUNTED = (PERSONAL, C4_LINES, COMMON_LINES, MIXED)
_ROW_GROUP = 1024


class Funnel:
    """Documents and bytes, in and out, by reason, split and language."""

    def __init__(self) -> None:
        self._documents: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._found: dict[str, Counter[str]] = {PERSONAL: Counter(), "lines": Counter()}
        self._mixed = 0

    def add(self, group: str, names: Any, sizes: Any) -> None:
        """Count a column of names (reasons, splits or languages) and the bytes beside it."""
        table = pa.table({"name": names, "size": sizes}).group_by("name")
        for row in table.aggregate([("size", "sum"), ("size", "count")]).to_pylist():
            self._documents[group, row["name"] or "unknown"] += row["size_count"]
            self._bytes[group, row["name"] or "unknown"] += row["size_sum"]

    def count(self, table: pa.Table) -> None:
        """Sum up, over the documents kept, personal data found, lines removed and texts of mixed language."""
        table = table.filter(pc.is_null(table[REASON]))
        for name, group in ((PERSONAL, PERSONAL), (C4_LINES, "lines")):
            if name in table.column_names:
                column = table[name].combine_chunks()
                for field, numbers in zip(column.type, column.flatten(), strict=True):
                    self._found[group][field.name] += pc.sum(numbers).as_py() or 0
        if COMMON_LINES in table.column_names:
            self._found["lines"]["common"] += pc.sum(table[COMMON_LINES]).as_py() or 0
        if MIXED in table.column_names:
            self._mixed += pc.sum(table[MIXED]).as_py() or 0

    @property
    def kept(self) -> int:
        """Documents that no rule dropped."""
        return sum(self._documents["splits", name] for name in SPLITS)

    def figures(self) -> dict[str, Any]:
        """``{"in": …, "kept": …, "dropped": {reason: …}, "splits": …, "languages": …}``, each a count
        with ``documents`` and ``bytes``."""
        dropped, splits = self._group("dropped"), self._group("splits")
        splits = {name: splits.get(name, {"documents": 0, BYTES: 0}) for name in SPLITS}
        whole = [*dropped.values(), *splits.values()]
        return {
            "in": _sum(whole),
            "kept": _sum(list(splits.values())),
            "dropped": dropped,
            "splits": splits,
            "languages": self._group("languages"),
            "mixed_languages": self._mixed,
            **{name: {key: n for key, n in found.items() if n} for name, found in self._found.items()},
        }

    def __str__(self) -> str:
        dropped = self._group("dropped")
        reasons = ", ".join(f"{name} {count['documents']}" for name, count in dropped.items())
        return f"{_sum(list(dropped.values()))['documents']} documents ({reasons})"

    def _group(self, group: str) -> dict[str, dict[str, int]]:
        names = sorted(
            (n for g, n in self._documents if g == group), key=lambda n: (-self._documents[group, n], n)
        )
        return {n: {"documents": self._documents[group, n], BYTES: self._bytes[group, n]} for n in names}


def write_documents(clean: Path, verdicts: Any, kept: Path, dropped: Path, funnel: Funnel) -> tuple[str, ...]:
    """Join texts and verdicts into ``kept/<split>/part-*`` and ``dropped/part-*``.

    Rows are sorted by id, so equal documents give equal files. Returns the names of the files of kept
    documents, relative to ``kept``.
    """
    names: list[str] = []
    dropped.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (kept / split).mkdir()
    for number, bucket in enumerate(sorted({folder.name for folder in clean.glob("*/bucket=*")})):
        table = _partition(clean, bucket, verdicts)
        part = f"part-{number:05d}.parquet"
        lost = table.filter(pc.is_valid(table[REASON]))
        _write(lost.select([*_KEPT, REASON, VALUE]), dropped / part)
        funnel.add("dropped", lost[REASON], lost[BYTES])
        funnel.count(table)
        for split in SPLITS:
            chosen = table.filter(pc.equal(table[SPLIT], split))
            if len(chosen):
                _write(chosen.select(_KEPT), kept / split / part)
                names.append(f"{split}/{part}")
                funnel.add("splits", chosen[SPLIT], chosen[BYTES])
                funnel.add("languages", chosen[LANGUAGE], chosen[BYTES])
    return tuple(names)


def _partition(clean: Path, bucket: str, verdicts: Any) -> pa.Table:
    frame = daft.read_parquet(str(clean / "*" / bucket / "*.parquet"))
    columns = [name for name in (*_KEPT, *_COUNTED) if name in frame.column_names]
    frame = frame.select(*columns).join(verdicts, on=SOURCE)
    return frame.to_arrow().sort_by([(ID, "ascending"), (SOURCE, "ascending")])


def _write(table: pa.Table, file: Path) -> None:
    pq.write_table(table.combine_chunks(), file, compression="zstd", row_group_size=_ROW_GROUP)


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    return {key: sum(count[key] for count in counts) for key in ("documents", BYTES)}

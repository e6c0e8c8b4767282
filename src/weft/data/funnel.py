"""What came in and what became of it: documents and bytes by reason, split and language."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from weft.data.schema import BYTES, PERSONAL, SPLITS

LINES = "lines"
_NUMBER = pa.int64()


class Funnel:
    """Documents and bytes, in and out, by reason, split and language."""

    def __init__(self) -> None:
        self._documents: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._found: dict[str, Counter[str]] = {PERSONAL: Counter(), LINES: Counter()}
        self._mixed = 0

    def add(self, group: str, names: Any, sizes: Any) -> None:
        """Count a column of names (reasons, splits or languages) and the bytes beside it."""
        table = pa.table({"name": names, "size": sizes}).group_by("name")
        for row in table.aggregate([("size", "sum"), ("size", "count")]).to_pylist():
            self._documents[group, row["name"] or "unknown"] += row["size_count"]
            self._bytes[group, row["name"] or "unknown"] += row["size_sum"]

    def find(self, group: str, numbers: pa.StructArray) -> None:
        """Sum up what was found by kind (personal data, lines removed), a struct of a number a kind."""
        for field, column in zip(numbers.type, numbers.flatten(), strict=True):
            self._found[group][field.name] += pc.sum(column).as_py() or 0

    def mix(self, documents: int) -> None:
        """Count documents of mixed language."""
        self._mixed += documents

    def record(self) -> dict[str, Any]:
        """As plain data, of which :meth:`merge` makes the same again."""
        counts = [[*key, number, self._bytes[key]] for key, number in self._documents.items()]
        return {"counts": counts, "found": self._found, "mixed": self._mixed}

    def merge(self, record: dict[str, Any]) -> None:
        """Add the counts of another funnel's record."""
        for group, name, documents, size in record["counts"]:
            self._documents[group, name] += documents
            self._bytes[group, name] += size
        for group, found in record["found"].items():
            self._found[group].update(found)
        self._mixed += record["mixed"]

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


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    return {key: sum(count[key] for count in counts) for key in ("documents", BYTES)}

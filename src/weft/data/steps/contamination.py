"""Step 8: texts that share a word n-gram with an evaluation set are dropped, so that scores stay honest.

As for GPT-3 (Brown et al., arXiv:2005.14165, appendix C): 13-grams of words without case and punctuation; a
Han character is a word. Code is searched as well. An n-gram of many items is a stock phrase of its set
("which of the following statements ...") and is not looked for. W = words of a batch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.core.files import disk_errors
from weft.data.config_quality import ContaminationConfig
from weft.data.engine import batch_function, daft
from weft.data.kernels import Offsets
from weft.data.measure import slices
from weft.data.references import Sample, read_samples
from weft.data.schema import REASON, SOURCE, TEXT, VALUE
from weft.data.words import Hashes, ngrams, word_hashes, words

CONTAMINATED = "contaminated"
INDEX = "evaluation.npz"

_BATCH = 4096
_MOST_HITS = 1000
_HIT = pa.struct([("set", pa.large_string()), ("item", pa.int64()), ("ngram", pa.large_string())])
_HITS = daft.DataType.from_arrow_type(pa.large_list(_HIT))


@dataclass(frozen=True)
class Evaluation:
    """N-grams of evaluation sets. G of them: ``hashes`` [G] sorted, and of each the set (an index into
    ``names``) and the item that come first. ``maybe`` is a table of flags by the low bits of a hash."""

    hashes: Hashes
    sets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    names: npt.NDArray[np.str_]
    maybe: npt.NDArray[np.bool_]
    ngram: int

    def find(self, hashes: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """``(positions, places)``: which of ``hashes`` are known, and where in the arrays."""
        if not len(self.hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        # Almost nothing passes the flags, which stay in the cache; so the search hardly costs.
        candidates = np.flatnonzero(self.maybe[hashes & np.uint64(len(self.maybe) - 1)])
        places = np.minimum(np.searchsorted(self.hashes, hashes[candidates]), len(self.hashes) - 1)
        known = self.hashes[places] == hashes[candidates]
        return candidates[known], places[known]


def index_evaluation(config: ContaminationConfig, folder: Path) -> dict[str, int]:
    """Write ``folder/evaluation.npz`` from the sets; returns counts: items, ngrams, and texts too short for
    one and stock phrases, neither of which is looked for. Raises DataError for files that cannot be read."""
    samples = (s for path in config.sets for s in read_samples(Path(path), config.fields, by_line=True))
    names: dict[str, int] = {}
    parts = [_indexed([], config.ngram, names)]
    while batch := list(itertools.islice(samples, _BATCH)):
        parts.append(_indexed(batch, config.ngram, names))
    hashes, sets, items = (np.concatenate([part[column] for part in parts]) for column in range(3))
    order = np.lexsort((items, sets, hashes))
    rows = np.stack([hashes.view(np.int64), sets.astype(np.int64), items])[:, order]
    # An n-gram that an item repeats counts once.
    rows = rows[
        :, np.concatenate([np.ones(1, np.bool_), (rows[:, 1:] != rows[:, :-1]).any(axis=0)])[: rows.shape[1]]
    ]
    unique, first, counts = np.unique(rows[0].view(np.uint64), return_index=True, return_counts=True)
    rare = counts <= config.max_items
    with disk_errors(folder), (folder / INDEX).open("wb") as stream:
        np.savez(
            stream, hashes=unique[rare], sets=rows[1][first[rare]], items=rows[2][first[rare]],
            names=np.array(list(names) or [""]), ngram=np.array(config.ngram),
        )  # fmt: skip
    return {
        "items": np.unique(rows[1:], axis=1).shape[1],
        "ngrams": int(rare.sum()),
        "short_texts": sum(part[3] for part in parts),
        "stock_phrases": int((~rare).sum()),
    }


def _indexed(
    batch: list[Sample], size: int, names: dict[str, int]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], int]:
    """``(hashes uint64, sets int64, items int64, texts too short)`` of the n-grams of a batch of samples."""
    found, offsets = word_hashes(pa.array([sample.text for sample in batch], pa.large_string()))
    grams, inside = ngrams(found, offsets, size)
    owner = _owners(offsets)[: len(grams)][inside]
    sets = np.array([names.setdefault(sample.set, len(names)) for sample in batch], np.int64)
    items = np.array([sample.item for sample in batch], np.int64)
    return grams[inside], sets[owner], items[owner], int((np.diff(offsets) < size).sum())


def _owners(offsets: Offsets) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def drop_contaminated(frame: Any, folder: Path) -> Any:
    """Set the reason ``contaminated``, with the first set and item met as value ("mmlu.jsonl#12")."""
    col = daft.col
    frame = frame.with_column("met", _meet(col(TEXT), col(REASON), _index(folder)))
    met = col(REASON).is_null() & ~col("met").is_null()
    return frame.with_columns(
        {
            REASON: daft.functions.when(met, daft.lit(CONTAMINATED)).otherwise(col(REASON)),
            VALUE: daft.functions.when(met, col("met")).otherwise(col(VALUE)),
        }
    ).exclude("met")


def list_hits(frame: Any, folder: Path) -> Any:
    """A frame with the columns source, set, item, ngram: every n-gram met in a contaminated document, once a
    document, at most a thousand of each. ``frame`` is what :func:`drop_contaminated` gave."""
    col = daft.col
    rows = frame.where(col(REASON) == daft.lit(CONTAMINATED))
    rows = rows.select(col(SOURCE), _list(col(TEXT), _index(folder)).alias("hit")).explode("hit")
    return rows.select(col(SOURCE), daft.functions.unnest(col("hit")))


def first_hits(texts: pa.Array, evaluation: Evaluation) -> list[str | None]:
    """For each text [N] the set and item of the first n-gram met, or None."""
    values: list[str | None] = [None] * len(texts)
    start = 0
    for part in slices(texts) if len(texts) else ():
        found, offsets = word_hashes(part)
        grams, inside = ngrams(found, offsets, evaluation.ngram)
        positions, places = evaluation.find(grams)
        chosen = inside[positions]
        rows = np.searchsorted(offsets, positions[chosen], side="right") - 1
        for row, place in zip(rows[::-1].tolist(), places[chosen][::-1].tolist(), strict=True):
            values[start + row] = f"{evaluation.names[evaluation.sets[place]]}#{evaluation.items[place]}"
        start += len(part)
    return values


def all_hits(text: str, evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """``{"set", "item", "ngram"}`` of each n-gram of a text that is met, in the words of the text."""
    found, offsets = word_hashes(pa.array([text], pa.large_string()))
    grams, _ = ngrams(found, offsets, evaluation.ngram)
    positions, places = evaluation.find(grams)
    if not len(positions):
        return
    _, first = np.unique(places, return_index=True)
    spelled = [word for word, _ in words(text)]
    for chosen in np.sort(first)[:_MOST_HITS].tolist():
        place, position = int(places[chosen]), int(positions[chosen])
        yield {
            "set": str(evaluation.names[evaluation.sets[place]]),
            "item": int(evaluation.items[place]),
            "ngram": " ".join(spelled[position : position + evaluation.ngram]),
        }


@batch_function(daft.DataType.string(), rows=1024)
def _meet(texts: Any, reasons: Any, index: str) -> Any:
    wanted = pc.is_null(reasons.to_arrow())
    chosen = pc.if_else(wanted, pc.fill_null(texts.to_arrow().cast(pa.large_string()), ""), "")
    return pa.array(first_hits(chosen, load(index)), pa.large_string())


@batch_function(_HITS, rows=64)
def _list(texts: Any, index: str) -> Any:
    evaluation = load(index)
    rows = [list(all_hits(text or "", evaluation)) for text in texts.to_arrow().to_pylist()]
    return pa.array(rows, pa.large_list(_HIT))


def _index(folder: Path) -> str:
    file = folder / INDEX
    # With its time, because a worker keeps what it has read under this name.
    return f"{file.stat().st_mtime_ns} {file}"


@functools.lru_cache(2)
def load(index: str) -> Evaluation:
    """The evaluation sets of ``index``, a time and a path."""
    with np.load(index.partition(" ")[2]) as arrays:
        hashes = arrays["hashes"]
        flags = np.zeros(1 << max(16, (16 * len(hashes)).bit_length()), np.bool_)
        flags[hashes & np.uint64(len(flags) - 1)] = True
        return Evaluation(
            hashes, arrays["sets"], arrays["items"], arrays["names"], flags, int(arrays["ngram"])
        )

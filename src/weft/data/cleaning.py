"""Steps 1 to 10 of the pipeline: what is decided by looking at one document alone.

The input is worked on in parts of about ``part_bytes``; each becomes a folder, whole or absent, so an
interruption costs one part. Lines that many documents share need a look at all documents first: with
``lines.unit`` set the parts are written once before that (``.work/texts``) and once after (``.work/clean``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.core.files import atomic_directory
from weft.core.progress import Progress
from weft.data.config import DataConfig
from weft.data.engine import daft, write_errors
from weft.data.sources import Found
from weft.data.steps.classifier import drop_by_classifier
from weft.data.steps.clean import clean
from weft.data.steps.contamination import drop_contaminated, index_evaluation, list_hits
from weft.data.steps.identify import BUCKET, identify, measure_bytes
from weft.data.steps.junk import drop_junk
from weft.data.steps.language import identify_language
from weft.data.steps.lines import find_common_lines, remove_common_lines
from weft.data.steps.near import sign
from weft.data.steps.normalise import normalise
from weft.data.steps.personal import deidentify
from weft.data.steps.quality import judge_quality
from weft.data.steps.read import Piece, pieces, read_pieces

_BUCKET_BYTES = 32 << 20
# Each partition takes 1.5 to 8 MB of memory while a part is written, so many cost more than large ones.
_MOST_BUCKETS = 128
HITS = "contamination.parquet"
"""Beside the documents: n-grams that dropped ones share with evaluation sets (source, set, item, ngram)."""

Check = Callable[[], None]


class Cleaning:
    """Steps 1 to 10 over a listing, in parts below ``work``."""

    def __init__(self, config: DataConfig, listing: Sequence[Found], work: Path, check: Check) -> None:
        self._config, self._work, self._check = config, work, check
        size = sum(file.bytes for file in listing if file.reason is None)
        # Each part has a file for each bucket, so their number stays bounded.
        self.buckets = int(1 + size // max(_BUCKET_BYTES, size // _MOST_BUCKETS))
        parts = _parts(listing, config.part_bytes)
        self._parts = {f"part-{number:05d}": part for number, part in enumerate(parts)}

    def run(self) -> Path:
        """Write what is missing; returns the folder with ``<part>/bucket=<n>/*.parquet``."""
        config, work = self._config, self._work
        if config.contamination.sets:
            self._once(work / "evaluation", lambda folder: index_evaluation(config.contamination, folder))
        if config.lines.unit == "off":
            return self._write("clean", lambda name: self._judged(self._texts(name)), BUCKET)
        texts = self._write("texts", self._texts)
        everything = daft.read_parquet(str(texts / "*" / "*.parquet"))
        self._once(work / "lines", lambda to: find_common_lines(everything, config.lines, to, self.buckets))
        return self._write("clean", self._without_lines, BUCKET)

    def _texts(self, name: str) -> Any:
        frame = normalise(read_pieces(self._parts[name], self._config.read))
        return clean(frame, self._config.clean)

    def _without_lines(self, name: str) -> Any:
        frame = daft.read_parquet(str(self._work / "texts" / name / "*.parquet"))
        return self._judged(remove_common_lines(frame, self._config.lines, self._work / "lines"))

    def _judged(self, frame: Any) -> Any:
        config = self._config
        frame = drop_junk(frame, config.junk)
        frame = identify_language(frame, config.language)
        frame = judge_quality(frame, config.quality)
        frame = drop_by_classifier(frame, config.classifier)
        if config.contamination.sets:
            frame = drop_contaminated(frame, self._work / "evaluation")
        if config.personal.enabled:
            frame = deidentify(frame, config.personal)
        return sign(identify(measure_bytes(frame), self.buckets), config.duplicates)

    def hits(self, clean_folder: Path) -> Any:
        """A frame of the n-grams met in contaminated documents, None when there are no evaluation sets."""
        if not self._config.contamination.sets:
            return None
        frame = daft.read_parquet(str(clean_folder / "*" / "*" / "*.parquet"))
        return list_hits(frame, self._work / "evaluation")

    def _write(self, kind: str, make: Callable[[str], Any], partition: str | None = None) -> Path:
        folder = self._work / kind
        folder.mkdir(parents=True, exist_ok=True)
        with Progress(kind, len(self._parts), "parts") as progress:
            for name in self._parts:
                if not (folder / name).exists():
                    with atomic_directory(folder / name) as partial:
                        with write_errors(partial):
                            make(name).write_parquet(
                                str(partial),
                                compression="zstd",
                                partition_cols=[partition] if partition else None,
                            )
                        self._check()
                progress.advance()
        return folder

    def _once(self, folder: Path, make: Callable[[Path], Mapping[str, int] | int]) -> None:
        if not folder.exists():
            with atomic_directory(folder) as partial:
                make(partial)
                self._check()


def _parts(listing: Sequence[Found], size: int) -> Iterator[list[Piece]]:
    part: list[Piece] = []
    total = 0
    for piece in (piece for file in listing for piece in pieces(file)):
        part.append(piece)
        total += piece.length if piece.file.reason is None else 0
        if total >= size:
            yield part
            part, total = [], 0
    if part:
        yield part

"""From files to documents: the pipeline as numbered steps, run by the data engine.

``FOLDER/documents/<split>/part-*.parquet`` gets what is kept, ``FOLDER/dropped/part-*.parquet`` the rest
with its reason, ``FOLDER/documents/manifest.json`` the counts. Steps 1 to 10 (:mod:`weft.data.cleaning`)
look at one document at a time and stream to ``FOLDER/.work``, partitioned by content hash; an interrupted
run goes on after the last whole part. Steps 11 to 13 (:mod:`weft.data.comparing`) compare documents by ids
and signatures. Step 14 writes one partition a core at a time, which bounds the memory.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from weft.core import config as configuration
from weft.core import manifest
from weft.core.errors import DataError
from weft.core.files import atomic_directory, disk_errors
from weft.core.progress import Progress
from weft.data import documents
from weft.data import sources as source_files
from weft.data.cleaning import HITS, Cleaning
from weft.data.comparing import Comparing
from weft.data.config import DataConfig
from weft.data.documents import COMMAND
from weft.data.engine import guard, use
from weft.data.schema import DOCUMENTS, DROPPED
from weft.data.sources import Found
from weft.data.steps.write import gather_partitions, write_partitions

_WORK = "work"


def build(config: DataConfig, sources: Sequence[str | Path], out: Path) -> dict[str, Any]:
    """Make ``out/documents`` and ``out/dropped`` from ``sources``; returns the manifest of the documents.

    Does nothing when that is done already for the same files and configuration. Raises DataError when
    there are no files or nothing is kept, ResourceError when the disk is full.
    """
    started = time.perf_counter()
    listing = source_files.find(sources, config.read)
    text = _settings(config)
    inputs = {"sources": source_files.fingerprint(listing)}
    for folder in config.duplicates.against:
        inputs[f"against {folder}"] = documents.fingerprint(Path(folder))
    for name in (*config.contamination.sets, *([config.classifier.path] if config.classifier.path else ())):
        inputs[f"given {name}"] = source_files.fingerprint(source_files.find([name], config.read))
    if manifest.is_done(out / DOCUMENTS, command=COMMAND, config=text, inputs=inputs):
        return manifest.read(out / DOCUMENTS) or {}
    use(config.on)
    out = out.absolute()
    with guard() as check:
        return _build(config, listing, out, text, inputs, started, check)


def _build(
    config: DataConfig,
    listing: Sequence[Found],
    out: Path,
    text: str,
    inputs: dict[str, str],
    started: float,
    check: Callable[[], None],
) -> dict[str, Any]:
    work = _workplace(out / ".work", text, inputs)
    seconds: dict[str, float] = {}
    with _stage("find, read and clean", seconds, "clean", started):
        cleaning = Cleaning(config, listing, work, check)
        clean = cleaning.run()
    comparing = Comparing(config, clean, cleaning.buckets, work)
    with _stage("compare documents", seconds, "deduplicate"):
        comparing.run(check)
    try:
        with _stage("write documents", seconds, "write"):
            with disk_errors(work):
                funnel = write_partitions(clean, comparing.judged, work / "written")
            check()
            if not funnel.kept:
                raise DataError(f"Nothing is left of {funnel}; give other text or loosen the rules.")
            # The inner folder is finished first, so documents/manifest.json comes last.
            with atomic_directory(out / DOCUMENTS) as kept, atomic_directory(out / DROPPED) as dropped:
                outputs = gather_partitions(work / "written", kept, dropped)
                hits = cleaning.hits(clean)
                if hits is not None:
                    pq.write_table(hits.sort(["source", "set", "item", "ngram"]).to_arrow(), kept / HITS)
                    outputs = (*outputs, HITS)
                check()
                figures = funnel.figures() | {"seconds": seconds}
                record = manifest.write(
                    kept, command=COMMAND, config=text, inputs=inputs, figures=figures, outputs=outputs
                )
    except DataError:
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)
    return record


def _workplace(work: Path, text: str, inputs: dict[str, str]) -> Path:
    """The folder of intermediate results, emptied unless it is of the same input and configuration."""
    if not manifest.is_done(work, command=_WORK, config=text, inputs=inputs):
        shutil.rmtree(work, ignore_errors=True)
        with disk_errors(work):
            work.mkdir(parents=True)
            manifest.write(work, command=_WORK, config=text, inputs=inputs, figures={})
    return work


@contextlib.contextmanager
def _stage(label: str, seconds: dict[str, float], key: str, started: float | None = None) -> Iterator[None]:
    begin = time.perf_counter() if started is None else started
    with Progress(label) as progress:
        yield
        seconds[key] = round(time.perf_counter() - begin, 3)
        progress.say(f"{label}: {seconds[key]:.1f} s")


def _settings(config: DataConfig) -> str:
    """The part of the configuration that decides the documents."""
    names = [name for name in vars(config) if name not in ("sources", "tokenizer", "on", "part_bytes")]
    return "\n".join(f"[{name}]\n{configuration.dump(getattr(config, name))}" for name in names)

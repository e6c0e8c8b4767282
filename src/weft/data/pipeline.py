"""From files to documents: the pipeline as numbered steps, run by the data engine.

``FOLDER/documents/<split>/part-*.parquet`` gets what is kept, ``FOLDER/dropped/part-*.parquet`` the
rest with its reason, ``FOLDER/documents/manifest.json`` the counts. Steps 1 to 4 look at one document
at a time and stream to ``FOLDER/.work``, partitioned by content hash; a run that is interrupted after
them continues there. Steps 5 to 7 compare documents and look at ids and signatures; texts are joined
again one partition at a time, so memory is bounded by a partition.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from weft.core import config as configuration
from weft.core import manifest
from weft.core.errors import DataError
from weft.core.files import atomic_directory
from weft.core.progress import Progress
from weft.data import sources as source_files
from weft.data.config import DataConfig
from weft.data.documents import COMMAND
from weft.data.engine import daft, guard, write_errors
from weft.data.schema import DOCUMENTS, DROPPED, ID, REASON, SOURCE, TEXT, VALUE
from weft.data.sources import Found
from weft.data.steps.exact import drop_exact_duplicates
from weft.data.steps.identify import BUCKET, DRAW, identify
from weft.data.steps.junk import drop_junk
from weft.data.steps.near import drop_near_duplicates
from weft.data.steps.normalise import normalise
from weft.data.steps.read import read
from weft.data.steps.split import SPLIT, split
from weft.data.steps.write import Funnel, write_documents

_CLEAN = "clean"
_PARTITION_BYTES = 64 << 20


def build(config: DataConfig, sources: Sequence[str | Path], out: Path) -> dict[str, Any]:
    """Make ``out/documents`` and ``out/dropped`` from ``sources``; returns the manifest of the documents.

    Does nothing when that is done already for the same files and configuration. Raises DataError when
    there are no files or nothing is kept, ResourceError when the disk is full.
    """
    started = time.perf_counter()
    listing = source_files.find(sources, config.read)
    text = _settings(config)
    inputs = {"sources": source_files.fingerprint(listing)}
    if manifest.is_done(out / DOCUMENTS, command=COMMAND, config=text, inputs=inputs):
        return manifest.read(out / DOCUMENTS) or {}
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
    work = out / ".work"
    seconds: dict[str, float] = {}
    with _stage("find, read and clean", seconds, "clean", started):
        _clean(config, listing, work / _CLEAN, text, inputs, check)
    with _stage("compare documents", seconds, "deduplicate"):
        verdicts = _judge(work, config)
    funnel = Funnel()
    try:
        with (
            _stage("write documents", seconds, "write"),
            # The inner folder is finished first, so documents/manifest.json comes last.
            atomic_directory(out / DOCUMENTS) as kept,
            atomic_directory(out / DROPPED) as dropped,
        ):
            outputs = write_documents(work / _CLEAN, verdicts, kept, dropped, funnel)
            check()
            if not funnel.kept:
                raise DataError(f"Nothing is left of {funnel}; give other text or loosen the rules.")
            figures = funnel.figures() | {"seconds": seconds}
            record = manifest.write(
                kept, command=COMMAND, config=text, inputs=inputs, figures=figures, outputs=outputs
            )
    except DataError:
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)
    return record


def _clean(
    config: DataConfig,
    listing: Sequence[Found],
    folder: Path,
    text: str,
    inputs: dict[str, str],
    check: Callable[[], None],
) -> None:
    """Steps 1 to 4, one document at a time, into ``folder``."""
    if manifest.is_done(folder, command=_CLEAN, config=text, inputs=inputs):
        return
    size = sum(file.bytes for file in listing if file.reason is None)
    frame = read(listing, config.read)
    frame = normalise(frame)
    frame = drop_junk(frame, config.junk)
    frame = identify(frame, buckets=1 + size // _PARTITION_BYTES)
    with atomic_directory(folder) as partial:
        with write_errors(partial):
            frame.write_parquet(str(partial), compression="zstd", partition_cols=[BUCKET])
        check()
        manifest.write(partial, command=_CLEAN, config=text, inputs=inputs, figures={})


def _judge(work: Path, config: DataConfig) -> Any:
    """Steps 5 to 7: a frame with source, id, reason, value and split of every document, in memory."""
    documents = daft.read_parquet(str(work / _CLEAN / "*" / "*.parquet"))
    verdicts = drop_exact_duplicates(documents.select(SOURCE, ID, DRAW, REASON, VALUE)).collect()
    texts = documents.select(SOURCE, TEXT)
    scratch = work / "near"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    verdicts = drop_near_duplicates(verdicts, texts, config.duplicates, scratch).collect()
    return split(verdicts, config.split).select(SOURCE, REASON, VALUE, SPLIT).collect()


@contextlib.contextmanager
def _stage(label: str, seconds: dict[str, float], key: str, started: float | None = None) -> Iterator[None]:
    begin = time.perf_counter() if started is None else started
    with Progress(label) as progress:
        yield
        seconds[key] = round(time.perf_counter() - begin, 3)
        progress.say(f"{label}: {seconds[key]:.1f} s")


def _settings(config: DataConfig) -> str:
    """The part of the configuration that decides the documents."""
    parts = {"read": config.read, "junk": config.junk, "duplicates": config.duplicates, "split": config.split}
    return "\n".join(f"[{name}]\n{configuration.dump(part)}" for name, part in parts.items())

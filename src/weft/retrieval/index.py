"""An index on disk: built once from a folder of texts, then opened for searching and answering."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weft.core import config, manifest
from weft.core.errors import DataError, UsageError
from weft.core.files import atomic_directory, hash_file
from weft.data import sources
from weft.retrieval import answer as answering
from weft.retrieval import passages as passing
from weft.retrieval.answer import Answer, Answerer
from weft.retrieval.bm25 import K1, B, Bm25
from weft.retrieval.counts import TITLE_WEIGHT, count
from weft.retrieval.dense import RANK, Embedder, EncoderVectors, Latent, Vectors
from weft.retrieval.passages import OVERLAP, SIZE, Passage, Skipped
from weft.retrieval.search import Hit, Reranker, Searcher

COMMAND = "index"
PASSAGES, BM25, LATENT, VECTORS = "passages.parquet", "bm25.npz", "latent.npz", "vectors.npy"

_FORMAT = 1
"""Counts up when the files of an index change, so that an old one is built again."""


@dataclass(frozen=True)
class IndexConfig:
    """How an index is built. ``size`` and ``overlap`` are words of a passage, ``rank`` the dimensions of
    latent vectors, ``encoder`` a checkpoint that makes vectors instead ("": none)."""

    size: int = SIZE
    overlap: int = OVERLAP
    title_weight: int = TITLE_WEIGHT
    k1: float = K1
    b: float = B
    rank: int = RANK
    seed: int = 0
    encoder: str = ""
    format: int = _FORMAT


class Index:
    """An opened index."""

    def __init__(self, folder: Path, record: dict[str, Any], searcher: Searcher) -> None:
        self.folder, self.figures = folder, record["figures"]
        self._searcher = searcher

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self._searcher.passages)

    @property
    def passages(self) -> Sequence[Passage]:
        """All passages, in the order of :meth:`scores`."""
        return self._searcher.passages

    def search(
        self, query: str, k: int = 10, how: str = "hybrid", reranker: Reranker | None = None
    ) -> list[Hit]:
        """See :meth:`weft.retrieval.search.Searcher.search`."""
        return self._searcher.search(query, k, how, reranker)

    def scores(self, query: str, how: str = "hybrid") -> np.ndarray[Any, np.dtype[np.float64]]:
        """See :meth:`weft.retrieval.search.Searcher.scores`."""
        return self._searcher.scores(query, how)

    def ask(
        self,
        question: str,
        k: int = 5,
        how: str = "hybrid",
        answerer: Answerer | None = None,
        reranker: Reranker | None = None,
    ) -> Answer:
        """An answer that cites some of the best ``k`` passages, or says that nothing was found."""
        hits = self.search(question, k, how, reranker)
        return answering.answer(question, hits, self._searcher.bm25, self.figures["least"], answerer)


def index(
    sources_: str | Path | Iterable[str | Path],
    out: str | Path,
    settings: IndexConfig | None = None,
    device: str = "cpu",
) -> Index:
    """Build the index ``out`` of a folder, a file or several; open it when it is there for the same files.

    Raises DataError where there is nothing to index, UsageError where ``out`` is a folder of other things.
    """
    paths = [sources_] if isinstance(sources_, (str, Path)) else list(sources_)
    out, settings = Path(out), settings or IndexConfig()
    _refuse_others(out)
    skipped = Skipped()
    listing = [one for one in passing.find_files(paths, skipped) if not _below(one.path, out)]
    inputs = {"files": sources.fingerprint(listing)}
    if settings.encoder:
        settings = replace(settings, encoder=str(Path(settings.encoder).absolute()))
        inputs["encoder"] = _encoder_fingerprint(Path(settings.encoder))
    text = config.dump(settings)
    if _is_done(out, text, inputs):
        try:
            return open_index(out, device)
        except DataError:  # damaged: it is built again
            pass
    _build(listing, skipped, out, settings, inputs, device)
    return open_index(out, device)


def open_index(folder: str | Path, device: str = "cpu") -> Index:
    """Open what :func:`index` built; ``device`` is for the encoder, where the index has one.

    Raises DataError for a folder that holds no index, an unfinished or a damaged one.
    """
    folder = Path(folder)
    record = manifest.read(folder)
    if record is None or record["command"] != COMMAND:
        raise DataError(f"{folder} holds no index; build one with weft index FOLDER --out {folder}.")
    for name, expected in record["outputs"].items():
        file = folder / name
        if not file.is_file() or hash_file(file) != expected:
            raise _damaged(folder, name)
    settings = _settings(folder, record["config"])
    bm25 = Bm25.open(folder / BM25)
    searcher = Searcher(
        _passages(folder),
        bm25,
        _vectors(folder),
        lambda: _embedder(folder, settings, bm25, device),
    )
    return Index(folder, record, searcher)


def _build(
    listing: Sequence[sources.Found],
    skipped: Skipped,
    out: Path,
    settings: IndexConfig,
    inputs: dict[str, str],
    device: str,
) -> None:
    documents = list(passing.read_documents(listing, skipped))
    cut = [one for document in documents for one in passing.cut(document, settings.size, settings.overlap)]
    if not cut:
        reasons = ", ".join(f"{reason} {times}" for reason, times in skipped.reasons.items())
        raise DataError(
            f"There is no text to index (skipped: {reasons or 'nothing'}); give .txt, .md or .jsonl."
        )
    counts = count([one.text for one in cut], [one.title for one in cut], settings.title_weight)
    bm25 = Bm25.of(counts, settings.k1, settings.b)
    with atomic_directory(out) as folder:
        pq.write_table(passing.table(cut), folder / PASSAGES, compression="zstd")
        bm25.save(folder / BM25)
        names = [PASSAGES, BM25, VECTORS]
        if settings.encoder:
            vectors = EncoderVectors(settings.encoder, device).vectors([_whole(one) for one in cut])
        else:
            latent = Latent.fit(counts, settings.rank, settings.seed)
            latent.save(folder / LATENT)
            names.append(LATENT)
            vectors = latent.of(counts)
        np.save(folder / VECTORS, vectors, allow_pickle=False)
        manifest.write(
            folder,
            command=COMMAND,
            config=config.dump(settings),
            inputs=inputs,
            outputs=tuple(names),
            figures={
                "documents": len(documents),
                "passages": len(cut),
                "terms": len(bm25.vocabulary.names),
                "dimensions": vectors.shape[1],
                "skipped": skipped.reasons,
                "least": answering.fit(bm25, settings.seed),
            },
        )


def _whole(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def _is_done(out: Path, text: str, inputs: dict[str, str]) -> bool:
    try:
        return manifest.is_done(out, command=COMMAND, config=text, inputs=inputs)
    except DataError:  # damaged: it is built again
        return False


def _refuse_others(out: Path) -> None:
    """An index replaces the folder that it is written to, so that folder must be one."""
    if out.is_dir() and any(out.iterdir()) and not (out / manifest.NAME).is_file():
        raise UsageError(f"{out} holds other files, which an index would replace; choose a new folder.")
    record = manifest.read(out) if out.is_dir() and not _torn(out) else None
    if record is not None and record["command"] != COMMAND:
        raise UsageError(
            f"{out} is the result of weft {record['command']}; choose another folder for the index."
        )


def _torn(out: Path) -> bool:
    try:
        manifest.read(out)
    except DataError:
        return (out / BM25).exists() or (out / PASSAGES).exists()
    return False


def _below(path: str, out: Path) -> bool:
    return "://" not in path and Path(path).absolute().is_relative_to(out.absolute())


def _encoder_fingerprint(encoder: Path) -> str:
    """SHA-256 of the names, sizes and times of change of the files of a checkpoint."""
    from weft.checkpoint.safe_folder import resolve

    digest = hashlib.sha256()
    for file in sorted(resolve(encoder).iterdir()):
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _settings(folder: Path, text: str) -> IndexConfig:
    settings = config.build(IndexConfig, tomllib.loads(text), where=str(folder / manifest.NAME))
    if settings.format != _FORMAT:
        raise DataError(f"{folder} was built by another version of Weft; run weft index again.")
    return settings


def _passages(folder: Path) -> list[Passage]:
    try:
        return passing.untable(pq.read_table(folder / PASSAGES))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(folder, PASSAGES) from error


def _vectors(folder: Path) -> Vectors:
    try:
        found: Vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, VECTORS) from error
    return found


def _embedder(folder: Path, settings: IndexConfig, bm25: Bm25, device: str) -> Embedder:
    if settings.encoder:
        return EncoderVectors(settings.encoder, device)
    return Latent.open(folder / LATENT, bm25.vocabulary)


def _damaged(folder: Path, name: str) -> DataError:
    return DataError(f"{folder / name} is missing or damaged; delete {folder} and run weft index again.")

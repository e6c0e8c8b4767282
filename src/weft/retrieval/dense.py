"""Passages and questions as vectors, so that they can be alike without sharing a word.

Two kinds: latent semantic vectors (Deerwester et al. 1990), which need no model and are fitted to the indexed
passages themselves, and the mean hidden states of an encoder checkpoint. N passages, V terms, K dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from weft.core.errors import CheckpointError, DataError
from weft.retrieval.counts import Counts, Floats, Ints, Vocabulary

Vectors = npt.NDArray[np.float32]

RANK = 300
"""Dimensions of latent vectors at most; small collections get half as many as passages."""
_FITTED = 20_000
"""Passages that the dimensions are found in at most, drawn fairly; the others are folded in."""
_TERMS = 200_000
_ROUNDS, _SPARE = 2, 20
_CHUNK = 1 << 11
"""Entries of a sparse matrix that are multiplied together: their products (2 MB) stay in the cache."""


class Embedder(Protocol):
    """What makes vectors of texts."""

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """float32 [N, K] of length 1, or 0 for a text in which nothing is known."""
        ...


class Latent:
    """Latent semantic vectors: tf-idf rows projected on their leading right singular vectors."""

    def __init__(self, vocabulary: Vocabulary, terms: Ints, axes: Vectors) -> None:
        """``axes`` float32 [len(terms), K]: where each of the terms numbered ``terms`` points."""
        self._vocabulary, self._terms, self._axes = vocabulary, terms, axes
        self._place = np.full(len(vocabulary.names), -1)
        self._place[terms] = np.arange(len(terms))

    @classmethod
    def fit(cls, counts: Counts, rank: int = RANK, seed: int = 0) -> Latent:
        """Find at most ``rank`` dimensions; equal counts and seeds give equal ones on the same machine."""
        passages = counts.vocabulary.passages
        generator = np.random.default_rng(seed)
        terms = np.sort(np.argsort(-counts.vocabulary.frequencies, kind="stable")[:_TERMS])
        made = cls(counts.vocabulary, terms, np.zeros((len(terms), 1), np.float32))
        rows = made._weighted(counts)
        if passages > _FITTED:
            rows = rows.only(np.sort(generator.permutation(passages)[:_FITTED]))
        rank = max(1, min(rank, passages // 2, len(terms)))
        made._axes = _leading(rows, len(terms), rank, generator)
        return made

    def of(self, counts: Counts) -> Vectors:
        """float32 [N, K] of passages that are counted already."""
        return _unit(self._weighted(counts).times(self._axes))

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """See :class:`Embedder`."""
        found = np.zeros((len(texts), self._axes.shape[1]), np.float32)
        for row, text in enumerate(texts):
            numbers, times = self._vocabulary.known(text)
            kept = self._place[numbers] >= 0
            weights = _damped(times[kept]) * self._vocabulary.idf[numbers[kept]]
            found[row] = weights.astype(np.float32) @ self._axes[self._place[numbers[kept]]]
        return _unit(found)

    def save(self, file: Path) -> None:
        """Write arrays only, as ``.npz``; the vocabulary is that of the BM25 file."""
        np.savez(file, terms=self._terms, axes=self._axes)

    @classmethod
    def open(cls, file: Path, vocabulary: Vocabulary) -> Latent:
        """What :meth:`save` wrote; DataError where the file is missing or damaged."""
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as read:
                return cls(vocabulary, read["terms"], read["axes"])
        except Exception as error:  # whatever a file that is not ours makes zipfile and numpy raise
            raise DataError(f"The index file {file} is missing or damaged; build the index again.") from error

    def _weighted(self, counts: Counts) -> _Rows:
        kept = self._place[counts.numbers] >= 0
        numbers, owners = counts.numbers[kept], counts.owners[kept]
        values = _damped(counts.times[kept]) * counts.vocabulary.idf[numbers]
        lengths = np.sqrt(np.bincount(owners, values**2, len(counts.starts) - 1))
        values /= np.maximum(lengths, 1e-12)[owners]
        return _Rows(owners, self._place[numbers], values.astype(np.float32), len(counts.starts) - 1)


class _Rows:
    """A sparse matrix [N, V] by entries in the order of their rows; enough of one for products."""

    def __init__(self, owners: Ints, columns: Ints, values: Vectors, count: int) -> None:
        self.owners, self.columns, self.values, self.count = owners, columns, values, count

    def only(self, kept: Ints) -> _Rows:
        """Some of the rows, in order."""
        place = np.full(self.count, -1)
        place[kept] = np.arange(len(kept))
        mask = place[self.owners] >= 0
        return _Rows(place[self.owners[mask]], self.columns[mask], self.values[mask], len(kept))

    def transposed(self, columns: int) -> _Rows:
        """[V, N]."""
        order = np.argsort(self.columns, kind="stable")
        return _Rows(self.columns[order], self.owners[order], self.values[order], columns)

    def times(self, dense: Vectors) -> Vectors:
        """float32 [N, K]: the product with ``dense`` [V, K], in pieces."""
        found = np.zeros((self.count, dense.shape[1]), np.float32)
        for first in range(0, len(self.owners), _CHUNK):
            part = slice(first, first + _CHUNK)
            owners = self.owners[part]
            begins = np.flatnonzero(np.diff(owners, prepend=-1))
            products = dense[self.columns[part]] * self.values[part, None]
            found[owners[begins]] += np.add.reduceat(products, begins, axis=0)
        return found


class EncoderVectors:
    """The mean hidden state over the tokens of each text, of any encoder checkpoint."""

    def __init__(self, checkpoint: str | Path, device: str = "cpu") -> None:
        """Raises CheckpointError for a folder that holds no encoder with its tokenizer."""
        # Torch takes seconds to import, and search without an encoder does not need it.
        from weft.checkpoint.huggingface import load_any, resolve
        from weft.models.encoder import Encoder
        from weft.tokenizer import Tokenizer

        folder = resolve(checkpoint)
        model = load_any(folder, device=device)
        if not isinstance(model, Encoder):
            raise CheckpointError(
                f"{checkpoint} holds no encoder; dense vectors need one, such as ModernBERT."
            )
        self._model, self._tokenizer, self._device = model.eval(), Tokenizer.load(folder), device

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """See :class:`Embedder`; of a text longer than the model reads, its beginning."""
        from weft.data.forms.offsets import placed

        most = self._model.config.max_position_embeddings
        documents = [one.ids[:most] for one in placed(self._tokenizer, texts)]
        found = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        # Those of like length together, so that rows are filled up little.
        order = sorted(range(len(texts)), key=lambda number: -len(documents[number]))
        for first in range(0, len(order), 16):
            group = order[first : first + 16]
            found[group] = self._means([documents[number] for number in group])
        return _unit(found)

    def _means(self, documents: Sequence[Sequence[int]]) -> Any:
        import torch

        from weft.models.heads import pool
        from weft.ops.both_ways import BothWays

        width = max(len(document) for document in documents)
        tokens = torch.full((len(documents), width), self._tokenizer.eos_id)
        # What fills a row up is a document of its own at each position, so that no text sees it.
        start = torch.arange(width, dtype=torch.int32).repeat(len(documents), 1)
        for row, document in enumerate(documents):
            tokens[row, : len(document)] = torch.tensor(document)
            start[row, : len(document)] = 0
        with torch.inference_mode():
            context = BothWays(start.to(self._device))
            hidden = self._model(tokens.to(self._device), context)
            first = torch.arange(len(documents), device=hidden.device) * width
            return pool(hidden, context.start, context.end, first, "mean").float().cpu().numpy()


def _damped(times: Floats) -> Floats:
    damped: Floats = 1 + np.log(times)
    return damped


def _leading(rows: _Rows, columns: int, rank: int, generator: np.random.Generator) -> Vectors:
    """float32 [V, K]: the leading right singular vectors, by random projection (Halko et al. 2011)."""
    across = rows.transposed(columns)
    width = min(rank + _SPARE, rows.count, columns)
    basis = _orthogonal(across.times(generator.standard_normal((rows.count, width), np.float32)))
    for _ in range(_ROUNDS):
        basis = _orthogonal(across.times(_orthogonal(rows.times(basis))))
    _, _, right = np.linalg.svd(rows.times(basis), full_matrices=False)
    axes: Vectors = (basis @ right[:rank].T).astype(np.float32)
    return axes


def _orthogonal(matrix: Vectors) -> Vectors:
    basis: Vectors = np.linalg.qr(matrix)[0]
    return basis


def _unit(found: npt.NDArray[np.float32]) -> Vectors:
    unit: Vectors = (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)).astype(
        np.float32
    )
    return unit

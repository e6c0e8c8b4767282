"""A quality classifier: logistic regression over hashed n-grams of words, trained on good and bad samples.

As in fastText's supervised mode (Joulin et al., arXiv:1607.01759) features are the n-grams of 1 to ``ngrams``
words, hashed to 2^bits weights; a Han character is a word. There is no hidden layer: the score of a text is
the sigmoid of a bias and the sum of its features' weights over the square root of their number. Weights are
learned by AdaGrad (Duchi et al., 2011) over batches of documents, in whole-array operations, in an order
drawn from the content: the same samples give the same classifier. F = features of a batch, N = texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from weft.core.errors import DataError
from weft.core.files import atomic_directory, share
from weft.core.progress import Progress
from weft.data.config_quality import ClassifierTraining
from weft.data.kernels import Offsets
from weft.data.measure import slices
from weft.data.references import read_samples
from weft.data.words import ngrams, word_hashes

WEIGHTS, CONFIG = "classifier.safetensors", "classifier.json"
Floats = npt.NDArray[np.float32]
Features = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Classifier:
    """``weights`` float32 [2^bits]; ``bias``; how it was trained, and ``figures`` of the held-out samples."""

    weights: Floats
    bias: float
    training: ClassifierTraining
    figures: dict[str, Any]

    def score(self, texts: pa.Array) -> Floats:
        """The probability that each text [N] is good; of a text without words that of the bias."""
        parts = [self._score(part) for part in (slices(texts) if len(texts) else ())]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def save(self, folder: Path) -> None:
        """Write ``classifier.safetensors`` and ``classifier.json`` to ``folder``, whole or not at all."""
        record = {"training": asdict(self.training), "bias": self.bias, "figures": self.figures}
        with atomic_directory(folder) as partial:
            save_file({"weights": self.weights}, partial / WEIGHTS)
            share(partial / WEIGHTS)
            (partial / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """Read what :meth:`save` wrote; DataError when it is missing or damaged."""
        try:
            record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            training = ClassifierTraining(**record["training"])
            weights = load_file(folder / WEIGHTS)["weights"]
            if weights.shape != (1 << training.bits,):
                raise ValueError(f"{len(weights)} weights for {training.bits} bits")
            return cls(weights, float(record["bias"]), training, record["figures"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(
                f"There is no usable classifier in {folder} ({error}); train it again."
            ) from error

    def _score(self, texts: pa.Array) -> Floats:
        indices, offsets = features(texts, self.training)
        return _sigmoid(self.bias + _sums(self.weights[indices], offsets))


def features(texts: pa.Array, training: ClassifierTraining) -> tuple[Features, Offsets]:
    """Which weights the n-grams of each text [N] take, as indices [F]; and where each text begins [N + 1]."""
    hashes, offsets = word_hashes(texts)
    lengths = np.diff(offsets)
    counts = [np.maximum(lengths - size + 1, 0) for size in range(1, training.ngrams + 1)]
    places = np.concatenate([np.zeros(1, np.int64), np.cumsum(sum(counts))])
    indices = np.empty(places[-1], np.uint32)
    begin = places[:-1].copy()
    for size, count in enumerate(counts, 1):
        grams, inside = ngrams(hashes, offsets, size)
        # The high bits are mixed best. Those of a text follow each other, after its shorter n-grams.
        chosen = (grams[inside] >> np.uint64(64 - training.bits)).astype(np.uint32)
        shift = begin - np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])[:-1]
        indices[np.arange(len(chosen)) + np.repeat(shift, count)] = chosen
        begin += count
    return indices, places


def train_classifier(
    good: Sequence[Path], bad: Sequence[Path], out: Path, training: ClassifierTraining | None = None
) -> Classifier:
    """Train on the samples of files or folders, write ``out``, and print the AUC on held-out samples.

    A sample is a record of a ``.jsonl`` or ``.parquet`` file (all its strings) or a whole ``.txt`` file.
    Those held out are drawn by content. Raises DataError when a class has fewer
    than two samples on either side.
    """
    training = training or ClassifierTraining()
    texts, labels = _labelled(good, bad)
    draws = np.concatenate([_draws(part) for part in slices(texts)])
    held = draws < training.held_out
    for side, name in ((held, "held out"), (~held, "to train on")):
        for label, what in ((1, "good"), (0, "bad")):
            if (count := int((labels[side] == label).sum())) < 2:
                raise DataError(f"There are only {count} {what} samples {name}; give more of them.")
    order = np.argsort(draws, kind="stable")
    order = order[~held[order]]
    with Progress("train the classifier", training.epochs * len(order), "samples") as progress:
        weights, bias = fit(texts.take(pa.array(order)), labels[order], training, progress)
        model = Classifier(weights, bias, training, {})
        scores = model.score(texts.filter(pa.array(held)))
        figures = {
            "samples": {"good": int(labels.sum()), "bad": int((1 - labels).sum())},
            "held_out": int(held.sum()),
            "auc": round(auc(scores, labels[held]), 4),
            "accuracy": round(float(((scores > 0.5) == labels[held]).mean()), 4),
        }
        progress.say(f"AUC on {figures['held_out']} held-out samples: {figures['auc']:.4f}")
    model = Classifier(weights, bias, training, figures)
    model.save(out)
    return model


def fit(
    texts: pa.Array, labels: npt.NDArray[np.int64], training: ClassifierTraining, progress: Progress
) -> tuple[Floats, float]:
    """``(weights, bias)`` of texts [N] with labels 1 (good) and 0, in the order given."""
    indices, offsets = features(texts, training)
    weights, squares = np.zeros(1 << training.bits, np.float32), np.zeros(1 << training.bits, np.float32)
    bias = bias_square = 0.0
    # Both classes weigh the same, whatever the numbers of their samples.
    share = float(labels.mean())
    importance = np.where(labels == 1, 0.5 / share, 0.5 / (1 - share)).astype(np.float32)
    for _ in range(training.epochs):
        for begin in range(0, len(labels), training.batch):
            stop = min(begin + training.batch, len(labels))
            span = offsets[begin : stop + 1]
            own, place = np.unique(indices[span[0] : span[-1]], return_inverse=True)
            local = weights[own]
            scores = _sigmoid(bias + _sums(local[place], span - span[0]))
            error = importance[begin:stop] * (scores - labels[begin:stop]).astype(np.float32)
            sizes = np.diff(span)
            each = np.repeat(error / np.sqrt(np.maximum(sizes, 1)), sizes)
            slope = np.bincount(place, weights=each, minlength=len(own)).astype(np.float32)
            squares[own] += slope * slope
            weights[own] = local - training.rate * slope / np.sqrt(squares[own] + 1e-12)
            total = float(error.mean())
            bias_square += total * total
            bias -= training.rate * total / float(np.sqrt(bias_square + 1e-12))
            progress.advance(stop - begin)
    return weights, bias


def auc(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """The chance that a good sample scores above a bad one, ties counted half (Mann-Whitney U)."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    good = int(labels.sum())
    bad = len(labels) - good
    return float((ranks[labels == 1].sum() - good * (good + 1) / 2) / (good * bad))


def _labelled(good: Sequence[Path], bad: Sequence[Path]) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    found = [list(_texts(paths)) for paths in (good, bad)]
    labels = np.repeat(np.array([1, 0]), [len(texts) for texts in found])
    if not len(labels):
        raise DataError("There are no samples to train a classifier on; give files of good and of bad text.")
    return pa.array([*found[0], *found[1]], pa.large_string()), labels


def _texts(paths: Sequence[Path]) -> Iterator[str]:
    """One text an item, whose strings are joined."""
    for path in paths:
        last: tuple[str, int] | None = None
        strings: list[str] = []
        for sample in read_samples(path):
            if last is not None and last != (sample.set, sample.item):
                yield "\n".join(strings)
                strings = []
            last = (sample.set, sample.item)
            strings.append(sample.text)
        if strings:
            yield "\n".join(strings)


def _draws(texts: pa.Array) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1) by the words of each text."""
    hashes, offsets = word_hashes(texts)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes, dtype=np.uint64)])
    mixed = (sums[offsets[1:]] - sums[offsets[:-1]]) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xC2B2AE3D27D4EB4F)
    draws: npt.NDArray[np.float64] = (mixed >> np.uint64(11)).astype(np.float64) / (1 << 53)
    return draws


def _sums(values: Floats, offsets: Offsets) -> Floats:
    """The sum of each span of values over the square root of its length; float32 [N]."""
    running = np.concatenate([np.zeros(1), np.cumsum(values, dtype=np.float64)])
    sums = (running[offsets[1:]] - running[offsets[:-1]]) / np.sqrt(np.maximum(np.diff(offsets), 1))
    narrow: Floats = sums.astype(np.float32)
    return narrow


def _sigmoid(x: Floats) -> Floats:
    value: Floats = (1 / (1 + np.exp(-np.clip(x, -30, 30)))).astype(np.float32)
    return value

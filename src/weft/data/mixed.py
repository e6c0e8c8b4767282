"""Batches from several sources: a loader for each, and a mixture that says which sample is whose."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weft.core.errors import ConfigError
from weft.data.batch import Batch
from weft.data.cache import BlockCache
from weft.data.config import MixtureConfig
from weft.data.loader import Loader, check_sizes
from weft.data.mixture import Era, Mixture, Point, temper
from weft.data.remote import is_remote
from weft.data.schema import SHARDS
from weft.tokenizer import Tokenizer

History = Sequence[tuple[int, MixtureConfig]]
"""(first step, mixture from there on): one entry, and one more for every change of a run in progress."""


class MixedLoader:
    """The rows of several loaders as one sequence, a pure function of (seed, history, step)."""

    def __init__(
        self,
        history: History,
        split: str,
        sequence_length: int,
        batch_rows: int = 1,
        seed: int = 0,
        *,
        verify: bool = True,
        cache: BlockCache | None = None,
    ) -> None:
        """Raises ConfigError when sources and weights do not fit together, else what :class:`Loader` does."""
        check_sizes(batch_rows, seed)
        config = history[0][1]
        for _, later in history[1:]:
            if later.sources != config.sources:
                raise ConfigError(
                    "mixture.sources cannot change during a run; list a source that comes later from the "
                    "start, with the weight 0."
                )
        self.sequence_length, self.batch_rows, self.seed = sequence_length, batch_rows, seed
        self.names, places = _sources(config)
        self.loaders = tuple(
            Loader(
                _shards(folder),
                split,
                sequence_length,
                batch_rows,
                seed,
                verify=verify,
                prefix=prefix,
                stream=number,
                cache=cache,
            )
            for number, (folder, prefix) in enumerate(places)
        )
        first = self.loaders[0]
        for name, loader in zip(self.names, self.loaders, strict=True):
            if loader.tokenizer_fingerprint != first.tokenizer_fingerprint:
                raise ConfigError(
                    f"The sources {self.names[0]!r} and {name!r} of the mixture were made with different "
                    "tokenizers; run weft data with one tokenizer for all."
                )
        tokens = [loader.tokens_per_epoch for loader in self.loaders]
        eras = [era(config, tokens, start) for start, config in history]
        self.mixture = Mixture([loader.rows for loader in self.loaders], eras, batch_rows)

    @property
    def rows(self) -> int:
        """Packed rows of all sources, each once."""
        return sum(loader.rows for loader in self.loaders)

    @property
    def tokens_per_epoch(self) -> int:
        """Targets of all sources, each once."""
        return sum(loader.tokens_per_epoch for loader in self.loaders)

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary that the shards were encoded with."""
        return self.loaders[0].vocab_size

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the tokens of all sources in their order, whatever the weights."""
        parts = json.dumps([loader.data_fingerprint for loader in self.loaders])
        return hashlib.sha256(parts.encode("utf-8")).hexdigest()

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """DataError unless all shards were made with exactly this tokenizer."""
        for loader in self.loaders:
            loader.check_tokenizer(tokenizer)

    def batch(self, step: int) -> Batch:
        """Batch number ``step`` (from 0), [batch_rows, T]; DataError when the sources are used up."""
        first = step * self.batch_rows
        return self.gather(range(first, first + self.batch_rows))

    def gather(self, samples: range) -> Batch:
        """The rows with these global sample numbers, each from its source."""
        source, place = self.mixture.assign(np.arange(samples.start, samples.stop))
        width = self.sequence_length
        tokens = np.empty((len(samples), width), np.int64)
        targets = np.empty_like(tokens)
        document_start = np.empty((len(samples), width), np.int32)
        for number in np.unique(source).tolist():
            here = source == number
            part = self.loaders[number].take(place[here])
            tokens[here], targets[here] = part.tokens, part.targets
            document_start[here] = part.document_start
        return Batch(tokens, targets, document_start)

    def epochs(self, step: int) -> dict[str, float]:
        """How often each source has been read before ``step``, by name."""
        counts = self.mixture.counts(step * self.batch_rows)
        read = zip(self.names, self.loaders, counts.tolist(), strict=True)
        return {name: count / loader.rows for name, loader, count in read}


def era(config: MixtureConfig, tokens: Sequence[int], start: int = 0) -> Era:
    """What ``config`` says, over sources with so many ``tokens``; ConfigError when it does not fit."""
    points = [_point(text, len(tokens)) for text in config.schedule]
    if not points:
        points = [Point(0, config.weights or tuple(map(float, tokens)))]
    for point in points:
        if any(not 0 <= weight < float("inf") for weight in point.weights) or not any(point.weights):
            raise ConfigError(
                f"The weights {list(point.weights)} at step {point.step} are not possible; give numbers "
                "from 0, not all of them 0."
            )
    tempered = [dataclasses.replace(p, weights=temper(p.weights, config.temperature)) for p in points]
    return Era(tuple(tempered), config.epochs or (0.0,) * len(tokens), config.change, start)


def _point(text: str, sources: int) -> Point:
    step, _, values = text.partition(":")
    try:
        point = Point(int(step), tuple(float(value) for value in values.split(",")))
    except ValueError:
        point = None
    if point is None or len(point.weights) != sources:
        raise ConfigError(
            f"{text!r} in mixture.schedule is no point; write a step and a weight for each of the {sources} "
            f'sources, for instance "0: {", ".join(["1.0"] * sources)}".'
        )
    return point


def _sources(config: MixtureConfig) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """Names, and (folder, prefix) of each source; ConfigError when one is spelled wrong or named twice."""
    names, places = [], []
    for text in config.sources:
        name, sign, place = (part.strip() for part in text.partition("="))
        folder, _, prefix = place.partition("#")
        if not sign or not name or not folder:
            raise ConfigError(
                f'{text!r} in mixture.sources is no source; write "name = folder" or "name = folder#prefix".'
            )
        names.append(name)
        places.append((folder.strip(), prefix))
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"mixture.sources needs names that differ, not {names}.")
    return tuple(names), places


def _shards(folder: str) -> str:
    """The folder of shards: that of a data folder, or the one given."""
    if is_remote(folder):
        return folder
    return str(Path(folder) / SHARDS) if (Path(folder) / SHARDS).is_dir() else folder

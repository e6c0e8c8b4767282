"""The training rows of a run: of its data folder, or of a mixture that may be changed while it runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from weft.checkpoint import state as checkpoint
from weft.core import config, manifest
from weft.core.errors import ConfigError, DataError
from weft.core.files import write_text_atomic
from weft.data.ahead import Ahead, Reads
from weft.data.answers import AnswerLoader
from weft.data.cache import BlockCache
from weft.data.config import MixtureConfig
from weft.data.hiding import Hiding
from weft.data.labels import LabelLoader
from weft.data.loader import Loader
from weft.data.masking import MaskedLoader, Masking
from weft.data.mixed import MixedLoader
from weft.data.pairs import PairLoader
from weft.data.preferences import FORM, PreferenceLoader, form
from weft.data.remote import is_remote
from weft.data.schema import TOKENIZER
from weft.data.similar import SimilarLoader
from weft.data.spans import Corruption, SpanLoader
from weft.tokenizer import Tokenizer
from weft.train.config import PREFERENCES, SUPERVISED, TrainRun
from weft.train.objectives.base import AnyBatch

FILE = "mixture.json"
"""In the run folder: every mixture of the run, and the step from which on it held."""


class TrainingRows(Reads[AnyBatch], Protocol):
    """A loader as a run needs it."""

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        ...

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens learnt from in one epoch."""
        ...

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        ...

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of what is learnt."""
        ...

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """DataError unless the shards were made with exactly this tokenizer."""
        ...


class ValidationRows(Protocol):
    """The held-out rows of a run."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def sequential(self, batch_rows: int | None = None) -> Iterator[AnyBatch]:
        """Every row exactly once."""
        ...


def open_rows(run: TrainRun, folder: Path, shards: Path, rows: int) -> TrainingRows:
    """The loader of a run whose batches have ``rows`` rows; ``folder`` holds its history, if any."""
    seed = run.train.seed
    if run.objective.name in SUPERVISED:
        return _supervised(run, shards, "train", rows, seed)
    if not run.mixture.sources:
        return _changed(run, shards, Loader(shards, "train", _text_length(run), rows, seed))
    cache = BlockCache.of(run.stream) if any(map(is_remote, run.mixture.sources)) else None
    mixture = history(folder) or [(0, run.mixture)]
    return _changed(run, shards, MixedLoader(mixture, "train", _text_length(run), rows, seed, cache=cache))


def open_validation(run: TrainRun, shards: Path) -> ValidationRows:
    """The loader of the validation rows, of which the same targets count as in training."""
    if run.objective.name in SUPERVISED:
        return _supervised(run, shards, "valid", 8, 0)
    # The split may be small: whole documents tell more there than full rows.
    plain = Loader(shards, "valid", _text_length(run), 8, 0, max_padding=1.0)
    changed = _changed(run, shards, plain)
    assert not isinstance(changed, MixedLoader)
    return changed


def shares(shards: Path) -> tuple[float, ...]:
    """Of labelled training documents, the shares of the classes; none for other data."""
    figures = (manifest.read(shards) or {}).get("figures", {})
    return tuple(figures.get("shares", ()))


Supervised = AnswerLoader | PreferenceLoader | SimilarLoader | PairLoader | LabelLoader


def _supervised(run: TrainRun, shards: Path, split: str, rows: int, seed: int) -> Supervised:
    length, long = run.data.sequence_length, run.objective.long
    if run.objective.name in PREFERENCES:
        return PreferenceLoader(shards, split, length, rows, seed)
    if run.objective.name == "contrastive":
        return SimilarLoader(shards, split, length, rows, seed)
    if run.objective.name == "sft":
        if form(shards) == FORM:
            raise DataError(
                f"{shards} holds preferences, of which sft would learn the rejected answers too; set "
                "objective.name to dpo or orpo."
            )
        return AnswerLoader(shards, split, length, rows, seed, long=long)
    if run.objective.name == "pairs":
        target = run.data.target_length or length
        return PairLoader(shards, split, length, target, rows, seed, long=long)
    rate = run.objective.token_dropout
    hiding = Hiding(Tokenizer.load(shards.parent / TOKENIZER), rate) if rate and split == "train" else None
    return LabelLoader(shards, split, length, rows, seed, form=run.objective.name, long=long, hiding=hiding)


Plain = Loader | MixedLoader


def _changed(run: TrainRun, shards: Path, plain: Plain) -> Plain | MaskedLoader | SpanLoader:
    """The rows as the objective wants them: as they are, with hidden tokens, or with spans cut out."""
    name, seed = run.objective.name, run.train.seed
    if name in ("pretrain", "distil"):
        return plain
    tokenizer = Tokenizer.load(shards.parent / TOKENIZER)
    if name == "masked":
        return MaskedLoader(plain, tokenizer, seed, Masking(run.objective.mask_rate))
    return SpanLoader(plain, _text_length(run), tokenizer, seed)


def _text_length(run: TrainRun) -> int:
    """Tokens of a row of text; with spans cut out it is shorter, and shall fit into the row asked for."""
    length = run.data.sequence_length
    return Corruption().text_length(length) if run.objective.name == "corrupt" else length


def ahead(run: TrainRun, loader: TrainingRows, rank: int = 0, ranks: int = 1) -> Ahead[AnyBatch]:
    """``loader`` with the next micro-batches of a data rank prepared by a thread.

    Raises DataError when it cannot last so long.
    """
    steps = loader.mixture.steps if isinstance(loader, MixedLoader) else None
    if steps is not None and run.train.steps is not None and steps < run.train.steps:
        raise DataError(
            f"The mixture is used up after {steps} of {run.train.steps} steps; raise mixture.epochs, or "
            f"train for {steps} steps."
        )
    return Ahead(loader, run.train.micro_rows, rank=rank, ranks=ranks)


def note(folder: Path, asked: MixtureConfig, *, finished: bool) -> bool:
    """Note that ``asked`` is the mixture from the next step on, and say whether that is a change.

    What a run has read stays as it was: a changed mixture begins after the newest checkpoint. Raises
    ConfigError when a run that has begun shall get other sources, or a finished one another mixture.
    """
    if not asked.sources and not (folder / FILE).exists():
        return False
    before = history(folder)
    if before and before[-1][1] == asked:
        return False
    if finished:
        raise ConfigError(f"{folder} is a finished run of another mixture; give another --out.")
    newest = checkpoint.newest(folder / "checkpoints")
    start = int(newest.name.removeprefix("step-")) if newest is not None else 0
    if start and (not before or before[0][1].sources != asked.sources):
        raise ConfigError(
            "mixture.sources cannot change during a run; list a source that comes later from the start, with "
            "the weight 0."
        )
    entries = [entry for entry in before if entry[0] < start] + [(start, asked)]
    written = [{"from_step": step, **dataclasses.asdict(mixture)} for step, mixture in entries]
    write_text_atomic(folder / FILE, json.dumps(written, ensure_ascii=False, indent=1) + "\n")
    return bool(before)


def history(folder: Path) -> list[tuple[int, MixtureConfig]]:
    """The mixtures of the run so far; DataError when the file is damaged."""
    file = folder / FILE
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [
            (int(entry.pop("from_step")), config.build(MixtureConfig, entry, str(file), "mixture."))
            for entry in entries
        ]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}); restore it, or begin a new run.") from error

"""Shards of supervised examples: conversations, pairs or labelled texts as tokens, and what to learn of them.

The folder is one of shards like any other (:mod:`weft.data.shards`). Where answers are learnt its sidecar
has one more column, ``answers``: for each document ``[start, stop, start, stop, ...]`` in tokens. Where
labels are learnt there is one more file a split, ``<split>.labels`` (:mod:`weft.data.labels`). What could
not be used is in ``dropped.parquet`` with the reason, and counted in the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weft.core import config, manifest
from weft.core.errors import DataError, WeftError
from weft.core.files import atomic_directory, disk_errors, hash_file
from weft.data.schema import REASON, SOURCE, SPLITS, VALUE
from weft.data.shards import COMMAND
from weft.data.supervised_config import Files, Given, SupervisedConfig
from weft.data.supervised_reading import LABELLED, Reading
from weft.data.supervised_writer import LABELS, SplitWriter
from weft.tokenizer import Tokenizer, train

__all__ = ["ENCODED", "Given", "SupervisedConfig", "prepare", "write"]

ENCODED = (*LABELLED, "similar")
"""Forms that encoders learn."""

_DROPPED = pa.schema([(SOURCE, pa.string()), (REASON, pa.string()), (VALUE, pa.string())])


def prepare(
    files: Files | Given, tokenizer: Tokenizer | int, out: Path, settings: SupervisedConfig | None = None
) -> dict[str, Any]:
    """A folder that training reads: the examples as ``out/shards``, see :func:`write`, and the tokenizer.

    ``tokenizer``: one to use, or the size of one to train on the training examples. Does nothing when it is
    done.
    """
    chosen = settings or SupervisedConfig()
    given = files if isinstance(files, Given) else Given(sorted(files, key=str))
    size = None
    if isinstance(tokenizer, int):
        # Its training reads every example, so it is not repeated to find that all is done.
        size, kept = tokenizer, _kept(out / "tokenizer")
        if kept is None or not _is_done(out / "shards", chosen, _inputs(given, kept, size)):
            texts = list(Reading(given, None, chosen).texts())
            kept = train(texts, size, encoder=chosen.form in ENCODED)
        tokenizer = kept
    record = write(given, tokenizer, out / "shards", chosen, vocab_size=size)
    with disk_errors(out):
        tokenizer.save(out / "tokenizer")
    return record


def _kept(folder: Path) -> Tokenizer | None:
    """The tokenizer that an earlier call left, None where there is none."""
    if not folder.exists():
        return None
    with contextlib.suppress(WeftError):
        return Tokenizer.load(folder)
    return None


def _inputs(given: Given, tokenizer: Tokenizer, vocab_size: int | None) -> dict[str, str]:
    """What a folder of shards is made from; ``vocab_size`` when the tokenizer was trained on the examples."""
    prints = {name: _fingerprint([str(file) for file in found]) for name, found in given.parts()}
    inputs = {"tokenizer": tokenizer.fingerprint, "files": prints["train"]}
    inputs |= {name: found for name, found in prints.items() if name != "train"}
    if given.exclude:
        inputs["exclude"] = _fingerprint([str(file) for file in given.exclude])
    return inputs if vocab_size is None else inputs | {"vocab_size": str(vocab_size)}


def _is_done(out: Path, settings: SupervisedConfig, inputs: dict[str, str]) -> bool:
    if not manifest.is_done(out, command=COMMAND, config=config.dump(settings), inputs=inputs):
        return False
    # Folders of an earlier Weft do not say whether their texts have predicates.
    return settings.form != "tag" or "markers" in (manifest.read(out) or {}).get("figures", {})


def write(
    files: Files | Given,
    tokenizer: Tokenizer,
    out: Path,
    settings: SupervisedConfig | None = None,
    *,
    vocab_size: int | None = None,
) -> dict[str, Any]:
    """Encode the examples of ``files`` into ``out`` and return the manifest; does nothing when it is done.

    A conversation is rendered with the tokenizer's chat template. Equal training examples are kept once, and
    a split that is not given is drawn by their content. ``vocab_size`` is noted: the size that was asked of a
    tokenizer trained on the examples. Raises DataError when a file cannot be read or nothing is left.
    """
    settings = settings or SupervisedConfig()
    given = files if isinstance(files, Given) else Given(sorted(files, key=str))
    inputs = _inputs(given, tokenizer, vocab_size)
    if _is_done(out, settings, inputs):
        return manifest.read(out) or {}
    reading = Reading(given, tokenizer, settings)
    with atomic_directory(out) as folder, contextlib.ExitStack() as stack:
        writers = {split: SplitWriter(folder, split, tokenizer, reading.labelled) for split in SPLITS}
        for writer in writers.values():
            stack.callback(writer.release)
        for split, where, identity, made, size in reading.documents():
            writers[split].add(identity, where, made, size)
        figures = {split: writer.close() for split, writer in writers.items()} | reading.figures()
        if not sum(figures[split]["documents"] for split in SPLITS):
            raise DataError(
                f"No example is left of {', '.join(map(str, given.train))}: {figures['dropped']}."
            )
        pq.write_table(pa.Table.from_pylist(reading.dropped, _DROPPED), folder / "dropped.parquet")
        suffixes = ("bin", "idx", "parquet", *((LABELS,) if writers["train"].labelled else ()))
        outputs = tuple(f"{split}.{suffix}" for split in SPLITS for suffix in suffixes)
        return manifest.write(
            folder,
            command=COMMAND,
            config=config.dump(settings),
            inputs=inputs,
            figures=figures,
            outputs=outputs,
        )


def _fingerprint(names: Sequence[str]) -> str:
    """Hash of the content of all files given, folders by the files below them."""
    files = [
        file
        for name in names
        for file in (sorted(Path(name).rglob("*")) if Path(name).is_dir() else [Path(name)])
        if file.is_file()
    ]
    spelled = json.dumps([[file.name, hash_file(file)] for file in files])
    return hashlib.sha256(spelled.encode("utf-8")).hexdigest()

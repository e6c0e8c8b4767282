"""From one Hugging Face folder to another, or to GGUF: checked, in the dtype asked for, with its lineage."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weft.checkpoint import peft
from weft.checkpoint.gguf import FILE as GGUF_FILE
from weft.checkpoint.gguf import write_gguf
from weft.checkpoint.gguf_numbers import KINDS
from weft.checkpoint.huggingface import (
    GENERATION,
    MAX_SHARD_BYTES,
    TOKENIZER_FILES,
    load_any,
    read_generation,
    resolve,
    write_model,
)
from weft.checkpoint.kinds import Model
from weft.checkpoint.peft import merge
from weft.checkpoint.safe_folder import CONFIG, inside
from weft.checkpoint.weights import INDEX, read_headers
from weft.core import manifest
from weft.core.config import dump
from weft.core.errors import CheckpointError, UsageError
from weft.core.files import atomic_directory, hash_file
from weft.core.registry import lookup
from weft.models import Decoder
from weft.tasks.card import FILE as CARD
from weft.tasks.naive_bayes import FILE as COUNTS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_COMMANDS = ("export", "import")
_BESIDE = (CARD, COUNTS)


@dataclass(frozen=True)
class ConvertConfig:
    """What a conversion may change.

    ``dtype`` is a name of DTYPES or None for as stored, and in ``format`` "gguf" a name of KINDS, where None
    is float16. ``adapter`` is a LoRA adapter, a PEFT folder, to be merged into the weights.
    """

    dtype: str | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES
    format: str = "huggingface"
    adapter: str | None = None


def convert(source: str | Path, out: str | Path, config: ConvertConfig, *, command: str) -> dict[str, Any]:
    """Read the checkpoint ``source`` and write it as the folder ``out``; returns the manifest of ``out``.

    Repeated with the same source and configuration it does nothing. Raises CheckpointError for a source
    that cannot be used, UsageError for a name of a dtype or an ``out`` that holds something else.
    """
    folder, out = resolve(source), Path(out)
    known = KINDS if config.format == "gguf" else DTYPES
    if config.dtype is not None:
        lookup(known, config.dtype, f"dtype of the format {config.format}")
    _check_out(folder, out)
    inputs = _hashes(folder) | _adapter_hashes(config.adapter)
    record = manifest.read(out)
    if record is not None and manifest.is_done(out, command=command, config=dump(config), inputs=inputs):
        return record
    model = load_any(folder)
    if config.adapter is not None:
        if not isinstance(model, Decoder):
            raise UsageError(
                f"{folder} holds a {model.config.architecture}; adapters are merged into decoders."
            )
        merge(model, Path(config.adapter))
    with atomic_directory(out) as temporary:
        files = _write(temporary, model, folder, config)
        return manifest.write(
            temporary,
            command=command,
            config=dump(config),
            inputs=inputs,
            outputs=files,
            figures={
                "architecture": model.config.architecture,
                "parameters": model.config.parameters,
                "bytes": sum((temporary / file).stat().st_size for file in files),
                "shards": sum(file.endswith(".safetensors") for file in files),
                "tokenizer": "tokenizer.json" in files or (folder / "tokenizer.json").is_file(),
            },
        )


def _write(out: Path, model: Model, folder: Path, config: ConvertConfig) -> tuple[str, ...]:
    if config.format == "gguf":
        if not isinstance(model, Decoder):
            raise UsageError(
                f"{folder} holds a {model.config.architecture}, and only decoders are written as GGUF; "
                "export it as a Hugging Face folder."
            )
        write_gguf(out / GGUF_FILE, model, folder, config.dtype or "float16")
        return (GGUF_FILE,)
    files = write_model(
        out,
        model,
        folder,
        dtype=None if config.dtype is None else DTYPES[config.dtype],
        max_shard_bytes=config.max_shard_bytes,
        generation=read_generation(folder),
    )
    return (*files, *_copied(folder, out))


def _copied(folder: Path, out: Path) -> list[str]:
    """What other programs need not know and Weft needs to answer as before."""
    beside = [name for name in _BESIDE if inside(folder, name).is_file()]
    for name in beside:
        shutil.copyfile(inside(folder, name), out / name)
    return beside


def _check_out(folder: Path, out: Path) -> None:
    """An export may replace an earlier export; nothing else is ever deleted."""
    source, target = folder.resolve(), out.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise UsageError(
            f"--out {out} and the checkpoint {folder} lie in one another; choose another folder."
        )
    if out.is_file():
        raise UsageError(f"--out {out} is a file; give the name of a new folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    record = manifest.read(out)
    if record is None or record.get("command") not in _COMMANDS:
        raise UsageError(f"--out {out} holds other files, which would be lost; choose a new folder.")


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that is read, and of the manifests that say where it came from."""
    weights = {stored.file.name for stored in read_headers(folder).values()}
    names = sorted({CONFIG, GENERATION, INDEX, manifest.NAME, *TOKENIZER_FILES, *_BESIDE, *weights})
    try:
        hashes = {name: hash_file(folder / name) for name in names if inside(folder, name).is_file()}
        run = folder.parent / manifest.NAME
        if folder.name == "model" and run.is_file():
            hashes["run/" + manifest.NAME] = hash_file(run)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename} cannot be read: {error.strerror}; check the folder."
        ) from error
    return hashes


def _adapter_hashes(adapter: str | None) -> dict[str, str]:
    """What is read of an adapter. CheckpointError when it is not one."""
    if adapter is None:
        return {}
    files = {name: Path(adapter) / name for name in (peft.CONFIG, peft.WEIGHTS)}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise CheckpointError(f"There is no {missing[0]}; give the folder of a LoRA adapter.")
    return {f"adapter/{name}": hash_file(file) for name, file in files.items()}


def describe(record: dict[str, Any], out: Path) -> str:
    """One line for people about a manifest that :func:`convert` returned."""
    figures = record["figures"]
    shards = figures["shards"]
    files = f"in all, weights in {shards} safetensors file(s)" if shards else f"in {GGUF_FILE}"
    line = (
        f"{out}: {figures['architecture']}, {figures['parameters']:,} parameters, "
        f"{figures['bytes'] / 1e6:,.1f} MB {files}"
    )
    return line if figures["tokenizer"] else line + "; without a tokenizer.json, so it takes token ids only"

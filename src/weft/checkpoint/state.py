"""Training state on disk: sharded by PyTorch's distributed checkpoint, whole or absent, checked on load.

Layout of ``RUN/checkpoints/step-00001200/``: the files of ``torch.distributed.checkpoint`` and
``state.json`` (the step, the configuration it belongs to, the hash of every file), written last.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from weft.core.errors import CheckpointError
from weft.core.files import atomic_directory, hash_file

NAME = "state.json"


@dataclass(frozen=True)
class State:
    """``tensors``: masters, optimiser, averages and random state under flat names; ``info``: plain values."""

    step: int
    tensors: dict[str, Tensor]
    info: dict[str, Any]


def save(folder: Path, state: State) -> Path:
    """Write ``folder/step-N`` atomically and return it. Raises ResourceError when the disk is full."""
    target = folder / f"step-{state.step:08d}"
    with atomic_directory(target) as partial:
        with warnings.catch_warnings():
            # It warns that there is no process group; one process is what we mean.
            warnings.simplefilter("ignore")
            _write(partial, state.tensors)
        hashes = {file.name: hash_file(file) for file in sorted(partial.iterdir())}
        record = {"step": state.step, "info": state.info, "files": hashes}
        (partial / NAME).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return target


def load(checkpoint: Path) -> State:
    """Read a checkpoint back; CheckpointError when a file is missing or differs from its hash."""
    record = _record(checkpoint)
    for name, digest in record["files"].items():
        file = checkpoint / name
        if not file.is_file() or hash_file(file) != digest:
            raise CheckpointError(f"{file} is missing or damaged; delete {checkpoint} to use an earlier one.")
    metadata = FileSystemReader(str(checkpoint)).read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_distributed(tensors, checkpoint_id=str(checkpoint), no_dist=True)
    return State(record["step"], tensors, record["info"])


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint below ``folder``, or None."""
    found = [path for path in folder.glob("step-*") if (path / NAME).is_file()]
    return max(found, default=None)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    found = sorted(path for path in folder.glob("step-*") if path.is_dir())
    for path in found[:-keep]:
        shutil.rmtree(path)


def _write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_distributed(dict(tensors), checkpoint_id=str(folder), no_dist=True)
    except Exception as error:
        # The library wraps the operating system's error; the cause is what the user needs to know.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from error
        raise


def _record(checkpoint: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((checkpoint / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / NAME} cannot be read; delete {checkpoint}.") from error
    return record

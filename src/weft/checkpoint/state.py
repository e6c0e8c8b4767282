"""Training state on disk: sharded by PyTorch's distributed checkpoint, whole or absent, checked on load.

Layout of ``RUN/checkpoints/step-00001200/``: the files of ``torch.distributed.checkpoint`` and
``state.json`` (the step, the configuration it belongs to, the hash of every file), written last.

Every rank writes what it holds; what several hold is written once. Tensors may be spread in any way
(DTensors), be held whole by all, or by some ranks only, and are read into any other way.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from weft.checkpoint.weights import some
from weft.core.errors import CheckpointError
from weft.core.files import disk_errors, hash_file
from weft.parallel.company import Company

NAME = "state.json"

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True)
class State:
    """``tensors``: masters, optimiser, averages and random state under flat names; ``info``: plain values."""

    step: int
    tensors: dict[str, Tensor]
    info: dict[str, Any]


def save(folder: Path, state: State, company: Company | None = None) -> Path:
    """Write ``folder/step-N`` atomically and return it; every rank of ``company`` gives what it holds.

    Raises ResourceError on every rank, and leaves nothing, when the disk of one is full.
    """
    company = company or Company()
    target = folder / f"step-{state.step:08d}"
    with company.directory(target) as partial:
        with _one_cause(target, company):
            _write(partial, state.tensors, company)
        hashes: dict[str, str] = {}
        for part in company.all(lambda: _hashes(_written(partial, company))):
            hashes |= part
        record = {"step": state.step, "info": state.info, "files": dict(sorted(hashes.items()))}
        text = json.dumps(record, indent=1)
        company.first(lambda: (partial / NAME).write_text(text, encoding="utf-8"))
    return target


def load(checkpoint: Path) -> State:
    """Read a checkpoint whole into this process; CheckpointError as in :func:`verify`."""
    step, info = verify(checkpoint)
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes(checkpoint).items()}
    load_into(checkpoint, tensors)
    return State(step, tensors, info)


def verify(checkpoint: Path, company: Company | None = None) -> tuple[int, dict[str, Any]]:
    """(step, info) of a checkpoint whose files are whole; each rank reads its share of them.

    Raises CheckpointError on every rank when a file is missing or differs from its hash.
    """
    company = company or Company()
    record = company.first(lambda: _record(checkpoint))
    own = list(record["files"].items())[company.rank :: company.size]
    company.all(lambda: _check(checkpoint, own))
    return record["step"], record["info"]


def shapes(checkpoint: Path) -> Shapes:
    """Shape and dtype of every tensor of a checkpoint, from its metadata alone."""
    metadata = FileSystemReader(str(checkpoint)).read_metadata().state_dict_metadata
    return {
        name: (tuple(entry.size), entry.properties.dtype)
        for name, entry in metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def load_into(checkpoint: Path, tensors: Mapping[str, Tensor], company: Company | None = None) -> None:
    """Fill ``tensors`` in place, each rank those it holds and of spread ones its part.

    Raises CheckpointError on every rank when the checkpoint lacks one, or holds it in another shape.
    """
    company = company or Company()
    company.all(lambda: _check_shapes(checkpoint, tensors))
    _quiet()
    with _one_cause(checkpoint, company):
        load_distributed(
            dict(tensors),
            checkpoint_id=str(checkpoint),
            process_group=company.group,
            no_dist=company.group is None,
        )


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint below ``folder``, or None."""
    found = [path for path in folder.glob("step-*") if (path / NAME).is_file()]
    return max(found, default=None)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    found = sorted(path for path in folder.glob("step-*") if path.is_dir())
    for path in found[:-keep]:
        shutil.rmtree(path)


def _write(folder: Path, tensors: Mapping[str, Tensor], company: Company) -> None:
    _quiet()
    save_distributed(
        dict(tensors),
        checkpoint_id=str(folder),
        process_group=company.group,
        no_dist=company.group is None,
    )


def _quiet() -> None:
    """The library warns that there is no process group; one process is what we mean.

    For good, because filters belong to the whole process and a thread must not put back old ones.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


@contextmanager
def _one_cause(path: Path, company: Company) -> Iterator[None]:
    """The library tells every rank of every failure, wrapped; what happened to the first is what counts."""
    try:
        yield
    except CheckpointException as error:
        rank, (failure, _) = min(error.failures.items())

        def cause() -> None:
            if company.rank == rank:
                with disk_errors(path):
                    raise _operating_system(failure)

        company.all(cause)
        raise


def _operating_system(error: BaseException) -> Exception:
    """The operating system's error among the causes of ``error``, or itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    found = cause or error
    return found if isinstance(found, Exception) else RuntimeError(str(found))


def _written(partial: Path, company: Company) -> Iterable[Path]:
    """The files whose hashes are this rank's to take: those that it wrote, and for rank 0 the rest."""
    names = [f"__{rank}_" for rank in range(1, company.size)]
    if company.rank:
        return partial.glob(f"__{company.rank}_*")
    return [file for file in partial.iterdir() if not file.name.startswith(tuple(names))]


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: hash_file(file) for file in files}


def _check(checkpoint: Path, files: Iterable[tuple[str, str]]) -> None:
    for name, digest in files:
        file = checkpoint / name
        if not file.is_file() or hash_file(file) != digest:
            raise CheckpointError(f"{file} is missing or damaged; delete {checkpoint} to use an earlier one.")


def _check_shapes(checkpoint: Path, tensors: Mapping[str, Tensor]) -> None:
    saved = shapes(checkpoint)
    absent = sorted(set(tensors) - set(saved))
    if absent:
        raise CheckpointError(
            f"{checkpoint} lacks {some(absent)}, which this run has; give the settings it was made with, or "
            "start a new run with another --out."
        )
    for name, tensor in tensors.items():
        shape, _ = saved[name]
        if shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{name} in {checkpoint} has the shape {list(shape)}, and this run's has "
                f"{list(tensor.shape)}; give the settings it was made with, or another --out."
            )


def _record(checkpoint: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((checkpoint / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / NAME} cannot be read; delete {checkpoint}.") from error
    return record

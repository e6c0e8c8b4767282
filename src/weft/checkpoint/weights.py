"""The safetensors files of a folder: one or many, read lazily and written in shards.

Only headers are read to know names, shapes and types, so a foreign file is checked before memory is
taken for it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weft.checkpoint.safe_folder import inside, read_json, refuse_pickles
from weft.checkpoint.spread import Box, Spread
from weft.core.errors import CheckpointError
from weft.core.files import disk_errors, share, write_text_atomic

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it is, from the header alone; ``dtype`` as safetensors spells it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in the weights of ``folder`` by name.

    Raises CheckpointError for pickles, absent shards, damaged files, an index that leaves the folder or
    does not agree with the files, and tensors that are not floating-point.
    """
    single = inside(folder, SINGLE)
    if single.exists():
        return _header(single)
    if not inside(folder, INDEX).exists():
        refuse_pickles(folder)
        raise CheckpointError(
            f"{folder} holds no weights ({SINGLE} or {INDEX}); copy the whole checkpoint again."
        )
    owner = _weight_map(folder)
    headers: dict[str, StoredTensor] = {}
    for name in sorted(set(owner.values())):
        file = inside(folder, name)
        if not file.exists():
            raise CheckpointError(f"{folder} lacks {name}, which its {INDEX} names; copy that file again.")
        for tensor, stored in _header(file).items():
            if owner.get(tensor) == name:
                headers[tensor] = stored
    absent = sorted(set(owner) - set(headers))
    if absent:
        raise CheckpointError(
            f"{folder / owner[absent[0]]} does not hold {some(absent)}, against {INDEX}; "
            "copy the checkpoint again."
        )
    return headers


def read_tensors(headers: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of ``headers``, one in memory at a time, file after file."""
    for file in sorted({stored.file for stored in headers.values()}):
        with _opened(file) as handle:
            for name, stored in headers.items():
                if stored.file == file:
                    yield name, handle.get_tensor(name)


def read_parts(
    headers: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[slice, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """Of each tensor in ``wanted`` the part that it says; the rest is not read."""
    for file in sorted({headers[name].file for name in wanted}):
        with _opened(file) as handle:
            for name, part in wanted.items():
                if headers[name].file == file:
                    yield name, handle.get_slice(name)[part]


@dataclass(frozen=True)
class Planned:
    """A tensor to be written as ``name``: the box ``part`` of our tensor ``source``, of a ``shape``."""

    name: str
    source: str
    part: Box
    shape: tuple[int, ...]
    dtype: torch.dtype


def write_tensors(folder: Path, spread: Spread, tensors: Iterable[Planned], max_shard_bytes: int) -> None:
    """Write ``tensors`` in their order as safetensors, the files in turn by the ranks that hold ``spread``.

    A file holds at most ``max_shard_bytes``, or one tensor that is larger; a second copy of one file's
    tensors is all the memory this takes on a rank. Several files come with an index, as transformers
    writes it. What is written does not depend on how the tensors are spread. A failure of one rank is
    raised on all.
    """
    company = spread.company
    files = _files(tensors, max_shard_bytes)
    names = [SINGLE]
    if len(files) > 1:
        names = [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    failures: list[OSError] = []
    for number, (name, content) in enumerate(zip(names, files, strict=True)):
        writer = number % company.size
        copies: dict[str, Tensor] = {}
        for tensor in content:
            fetched = spread.fetch(tensor.source, tensor.part, tensor.dtype, writer)
            if fetched is not None:
                copies[tensor.name] = fetched.view(tensor.shape)
        try:
            if company.rank == writer and not failures:
                _save(copies, folder / name)
        except OSError as error:
            # The others count on the parts that this rank holds; it goes on giving them, and says so last.
            failures.append(error)
    company.all(lambda: _raise_first(failures, folder))
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(map(_bytes, chain(*files)))},
            "weight_map": _owners(names, files),
        }
        company.first(lambda: write_text_atomic(folder / INDEX, json.dumps(index, indent=1) + "\n"))


def _owners(names: list[str], files: list[list[Planned]]) -> dict[str, str]:
    return {tensor.name: name for name, content in zip(names, files, strict=True) for tensor in content}


def _raise_first(failures: list[OSError], folder: Path) -> None:
    with disk_errors(folder):
        if failures:
            raise failures[0]


def some(names: list[str]) -> str:
    """The first three of ``names``, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _weight_map(folder: Path) -> dict[str, str]:
    owner = read_json(folder, INDEX).get("weight_map")
    if not isinstance(owner, dict) or not owner or not all(isinstance(file, str) for file in owner.values()):
        raise CheckpointError(
            f"{folder / INDEX} maps no tensors to files (weight_map); copy the checkpoint again."
        )
    foreign = [file for file in owner.values() if not file.endswith(".safetensors")]
    if foreign:
        raise CheckpointError(
            f"{folder / INDEX} names {foreign[0]!r}, which is not a safetensors file; only those are opened."
        )
    return owner


def _header(file: Path) -> dict[str, StoredTensor]:
    headers: dict[str, StoredTensor] = {}
    with _opened(file) as handle:
        for name in handle.keys():  # noqa: SIM118 - a safe_open handle is not a mapping
            part = handle.get_slice(name)
            headers[name] = StoredTensor(file, tuple(part.get_shape()), part.get_dtype())
    strange = [name for name, stored in headers.items() if stored.dtype not in _FLOATS]
    if strange:
        raise CheckpointError(
            f"{file} holds {some(strange)} as {headers[strange[0]].dtype}; only unquantised weights in "
            "float32, float16 or bfloat16 are read."
        )
    return headers


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        # The library says that a file which may not be read is not there.
        file.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); check the folder.") from error
    try:
        with safe_open(file, framework="pt", device="cpu") as handle:
            yield handle
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({error}); copy or download it again."
        ) from error


def _bytes(tensor: Planned) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _files(tensors: Iterable[Planned], limit: int) -> list[list[Planned]]:
    files: list[list[Planned]] = []
    filled = math.inf
    for tensor in tensors:
        size = _bytes(tensor)
        if filled + size > limit:
            files.append([])
            filled = 0
        files[-1].append(tensor)
        filled += size
    return files


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library turns the operating system's errors into text; disk_errors wants the number back.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number.group(1)), str(error), str(file)) from error
    share(file)

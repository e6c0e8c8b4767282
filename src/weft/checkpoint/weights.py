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
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weft.checkpoint.safe_folder import inside, read_json, refuse_pickles
from weft.core.errors import CheckpointError
from weft.core.files import write_text_atomic

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


def write_tensors(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None, max_shard_bytes: int
) -> list[str]:
    """Write ``tensors`` in their order as safetensors of ``dtype`` (None: as they are); returns file names.

    A shard holds at most ``max_shard_bytes``, or one tensor that is larger; a second copy of one shard is
    all the memory this takes. Several shards come with an index, as transformers writes it.
    """
    shards = _shards(list(tensors), dtype, max_shard_bytes)
    names = [SINGLE]
    if len(shards) > 1:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    owner: dict[str, str] = {}
    size = 0
    for file, shard in zip(names, shards, strict=True):
        copies = {
            name: tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
            for name, tensor in shard
        }
        _save(copies, folder / file)
        owner.update(dict.fromkeys(copies, file))
        size += sum(tensor.nbytes for tensor in copies.values())
    if len(shards) == 1:
        return names
    index = {"metadata": {"total_size": size}, "weight_map": owner}
    write_text_atomic(folder / INDEX, json.dumps(index, indent=1) + "\n")
    return [*names, INDEX]


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
        with safe_open(file, framework="pt", device="cpu") as handle:
            yield handle
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({error}); copy or download it again."
        ) from error


def _shards(
    tensors: list[tuple[str, Tensor]], dtype: torch.dtype | None, limit: int
) -> list[list[tuple[str, Tensor]]]:
    shards: list[list[tuple[str, Tensor]]] = []
    filled = math.inf
    for name, tensor in tensors:
        size = tensor.numel() * (dtype or tensor.dtype).itemsize
        if filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append((name, tensor))
        filled += size
    return shards


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library turns the operating system's errors into text; disk_errors wants the number back.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number.group(1)), str(error), str(file)) from error

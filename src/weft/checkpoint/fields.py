"""Fields of a foreign config.json, each checked before it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.core.errors import CheckpointError

Table = Mapping[str, Any]

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

_LARGEST = 2**31 - 1


def integer(table: Table, name: str, default: int | None = None) -> int:
    """A whole number from 0 to 2^31 - 1; CheckpointError when it is missing or something else."""
    value = table.get(name)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"it lacks {name}.")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise CheckpointError(f"{name} = {value!r} must be a whole number up to {_LARGEST}.")
    return value


def number(table: Table, name: str, default: float | None = None) -> float:
    """A number; CheckpointError when it is missing or something else."""
    value = table.get(name)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"it lacks {name}.")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise CheckpointError(f"{name} = {value!r} must be a number.")
    try:
        return float(value)
    except OverflowError:
        raise CheckpointError(f"{name} is too large to be a number.") from None


def flag(table: Table, name: str) -> bool:
    """True or false, false when it is missing; CheckpointError when it is something else."""
    value = table.get(name)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{name} = {value!r} must be true or false.")
    return bool(value)

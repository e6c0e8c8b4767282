"""The data engine, Daft, imported in one place: quiet, and with a clear word when it is missing.

Only the pipeline's modules import this; tokenizer, shards and loader work without the engine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from weft.core.errors import ResourceError

# Both are read when Daft is imported.
os.environ["DO_NOT_TRACK"] = "1"
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

try:
    import daft
    import xxhash
except ImportError as error:
    raise ResourceError(
        f"The data engine is not installed ({error.name}); run pip install 'weft[data]'."
    ) from error

__all__ = ["batch_function", "daft", "engine_errors", "xxhash"]

_DISK_FULL = ("No space left", "os error 28", "StorageFull", "File too large", "os error 27", "quota")


def batch_function(
    returns: Any, rows: int | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function of whole columns, called on at most ``rows`` rows at a time, for use in expressions."""
    decorator: Callable[[Callable[..., Any]], Callable[..., Any]]
    decorator = daft.func.batch(return_dtype=returns, batch_size=rows)
    return decorator


@contextlib.contextmanager
def engine_errors(folder: Path) -> Iterator[None]:
    """Turn the engine's own report of a full disk into ResourceError; other errors pass."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if any(sign in str(error) for sign in _DISK_FULL):
            raise ResourceError(
                f"Could not write {folder}: there is no disk space left; free some or choose another folder."
            ) from error
        raise

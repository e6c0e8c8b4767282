"""Files that are not on this machine: found and read through the data engine's own clients."""

from __future__ import annotations

import contextlib
import glob
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from weft.core.errors import DataError, ResourceError
from weft.core.hardware import usable_cores
from weft.data.engine import daft

_SCHEMES = {"http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf"}
_BUFFER = 1 << 20
_THREADS = ThreadPoolExecutor(32, thread_name_prefix="weft-remote")

T = TypeVar("T")


def is_address(source: str) -> bool:
    """Whether ``source`` is an address such as ``s3://bucket/folder`` or ``hf://datasets/owner/name``."""
    scheme, sign, _ = source.partition("://")
    return bool(sign) and scheme.lower() in _SCHEMES


def listing(source: str) -> list[tuple[str, int]]:
    """``(address, bytes)`` of every file that ``source`` names: a file, a pattern or a folder, sorted.

    An address whose last part has no suffix is a folder (not over HTTP, which has none). Raises
    DataError when there is nothing or it cannot be reached, and ResourceError on a single core, where the
    engine would wait for itself for ever (Daft 0.7.24: its one worker asks for what it should fetch).
    """
    if usable_cores() < 2:
        raise ResourceError(
            f"{source} cannot be read with one processor: the data engine needs a second one to fetch it. "
            "Give the process two, or copy the files to this machine first."
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = daft.from_glob_path(_pattern(source), io_config=_access()).to_pydict()
    except Exception as error:
        # The engine has errors of its own for each store, and one more for an empty listing.
        last = _last_line(error)
        if "at least 1 MicroPartition" in last:
            raise DataError(f"There is no file {source}; check the address.") from None
        raise DataError(f"{source} cannot be listed ({last}); check the address and the network.") from None
    rows = sorted(zip(found["path"], found["size"], strict=True))
    files = [(path, size or 0) for path, size in rows if not path.endswith("/")]
    if not files:
        raise DataError(f"There is no file {source}; check the address.")
    return files


def open_address(address: str) -> BinaryIO:
    """The file as a stream that can seek; OSError, whose ``strerror`` is one line, when it cannot be read."""
    with _read_errors():
        return cast(BinaryIO, io.BufferedReader(_Remote(daft.File(address, io_config=_access())), _BUFFER))


class _Remote(io.RawIOBase):
    """The engine's file as Python's: it fetches ranges as they are asked for.

    Each call is made in a thread of ours: in those in which the engine asks for documents it would
    wait for itself (0.7.24).
    """

    def __init__(self, file: Any) -> None:
        self._file = _elsewhere(lambda: file.open(buffer_size=_BUFFER).__enter__())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _read_errors():
            part = _elsewhere(lambda: self._file.read(len(buffer)))
        buffer[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = 0) -> int:
        return cast(int, _elsewhere(lambda: self._file.seek(offset, whence)))

    def tell(self) -> int:
        return cast(int, self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.__exit__(None, None, None)
        super().close()


def _elsewhere(call: Callable[[], T]) -> T:
    return _THREADS.submit(call).result()


@contextlib.contextmanager
def _read_errors() -> Any:
    try:
        yield
    except Exception as error:
        raise OSError(5, _last_line(error)) from None


def _access() -> Any:
    """Two tries, not five or 25: a host that refuses is reported in seconds."""
    return daft.io.IOConfig(
        http=daft.io.HTTPConfig(num_tries=2, retry_initial_backoff_ms=200),
        s3=daft.io.S3Config(num_tries=2, retry_initial_backoff_ms=200, connect_timeout_ms=10_000),
    )


def _pattern(source: str) -> str:
    parts = urlsplit(source)
    if parts.scheme.startswith("http") or glob.has_magic(source) or PurePosixPath(parts.path).suffix:
        return source
    return f"{source.rstrip('/')}/**"


def _last_line(error: Exception) -> str:
    """The cause, which the engine writes last in a numbered list."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).lstrip("0123456789: ")[:200]

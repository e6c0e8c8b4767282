"""Ranges of bytes out of files on this machine, in an object store or behind HTTP."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Protocol, TypeVar

import pyarrow as pa
from pyarrow import fs

from weft.core.errors import DataError, ResourceError

_TRIES = 4
_TIMEOUT = 30.0
_PAUSE = 0.25
R = TypeVar("R")


class RangeFile(Protocol):
    """A file that is read in pieces; both methods raise DataError when it is missing or cut short, and
    ResourceError when it cannot be reached after some tries."""

    url: str

    def size(self) -> int:
        """Bytes of the file."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``."""
        ...


def open_range(url: str) -> RangeFile:
    """The file at a URL: ``http`` and ``https`` by range requests, all else (s3, gs, file) by Arrow.

    Raises DataError for a scheme that Arrow does not know.
    """
    if url.startswith(("http://", "https://")):
        return HttpFile(url)
    try:
        system, path = fs.FileSystem.from_uri(url)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(f"{url} is no address that can be read ({_first_line(error)}).") from None
    return ArrowFile(system, path, url)


class ArrowFile:
    """A file of any file system that Arrow knows."""

    def __init__(self, system: fs.FileSystem, path: str, url: str) -> None:
        self._system, self._path, self.url = system, path, url

    def size(self) -> int:
        """Bytes of the file."""
        info = _again(lambda: self._system.get_file_info(self._path), self.url)
        if info.type != fs.FileType.File:
            raise DataError(f"There is no file {self.url}; check the address.")
        return int(info.size)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``."""

        def once() -> bytes:
            with self._system.open_input_file(self._path) as stream:
                return bytes(stream.read_at(length, offset))

        return _whole(_again(once, self.url), length, self.url)


class HttpFile:
    """A file behind a server that answers range requests (RFC 9110, section 14)."""

    def __init__(self, url: str) -> None:
        self.url = url

    def size(self) -> int:
        """Bytes of the file."""

        def once() -> int:
            request = urllib.request.Request(self.url, method="HEAD")
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                return int(answer.headers.get("Content-Length", -1))

        found = _again(once, self.url)
        if found < 0:
            raise DataError(f"The server of {self.url} does not say how long the file is.")
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``."""

        def once() -> bytes:
            wanted = {"Range": f"bytes={offset}-{offset + length - 1}"}
            request = urllib.request.Request(self.url, headers=wanted)
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                    raise DataError(
                        f"The server of {self.url} does not answer range requests; copy the file."
                    )
                return bytes(answer.read())

        return _whole(_again(once, self.url), length, self.url)


def _again(work: Callable[[], R], url: str) -> R:
    """``work()``, tried again after growing pauses when the network or the server fails."""
    for left in range(_TRIES - 1, -1, -1):
        try:
            return work()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise DataError(f"There is no file {url}; check the address.") from None
            if error.code < 500 and error.code != 429:
                raise DataError(f"{url} may not be read: the server answers {error.code}.") from None
            failure = f"the server answers {error.code}"
        except FileNotFoundError:
            raise DataError(f"There is no file {url}; check the address.") from None
        except PermissionError:
            raise DataError(f"{url} may not be read: permission was denied.") from None
        except (OSError, http.client.HTTPException, pa.ArrowException) as error:
            failure = _first_line(error)
        if left:
            time.sleep(_PAUSE * 2 ** (_TRIES - 1 - left))
    raise ResourceError(f"{url} could not be reached in {_TRIES} tries: {failure}.")


def _whole(content: bytes, length: int, url: str) -> bytes:
    if len(content) != length:
        raise DataError(f"{url} is cut short: {len(content)} of {length} bytes came; copy it again.")
    return content


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

"""Files that are whole or absent: atomic writes, hashes, and a clear word when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from weft.core.errors import ResourceError


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's disk errors inside the block into one sentence (ResourceError)."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "there is no disk space left; free some or choose another folder",
            errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
            errno.EROFS: "the file system is read-only; choose another folder",
            errno.EACCES: "permission was denied; choose a folder you may write to",
            errno.ENOTDIR: "a file stands where a folder must be; choose another path",
            errno.EEXIST: "a file stands where a folder must be; choose another path",
            errno.EISDIR: "a folder stands where the file must be; choose another path",
            errno.EFBIG: "the file would be larger than this process may write; raise the limit (ulimit -f)",
        }
        if error.errno not in reasons:
            raise
        raise ResourceError(f"Could not write {path}: {reasons[error.errno]}.") from error


def sync_directory(folder: Path) -> None:
    """Make a rename inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes_atomic(file: Path, content: bytes) -> None:
    """Write through a temporary sibling, fsync and rename, so a reader never sees half a file."""
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(file.parent)


def write_text_atomic(file: Path, content: str) -> None:
    """UTF-8 text through :func:`write_bytes_atomic`."""
    write_bytes_atomic(file, content.encode("utf-8"))


@contextlib.contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``folder`` only if the block succeeds.

    An existing ``folder`` is replaced after the new one is complete; leftovers of a killed run are
    removed on the next use.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
            replaced = folder.with_name(f".{folder.name}.replaced")
            shutil.rmtree(replaced, ignore_errors=True)
            if folder.exists():
                folder.rename(replaced)
            temporary.rename(folder)
            sync_directory(folder.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def share(file: Path) -> None:
    """Give a file that a library made for its owner alone the mode of all others that are written."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def hash_file(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Finding the files of a corpus: folders, files and globs become one sorted listing."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.core.errors import DataError
from weft.data import kinds
from weft.data.config import ReadConfig


@dataclass(frozen=True, order=True)
class Found:
    """One file. ``reason`` is set when it is dropped already, without being read."""

    source: str
    path: str
    kind: str | None
    language: str | None
    bytes: int
    modified: int
    reason: str | None = None
    value: str | None = None


def standard_library() -> Path:
    """The folder of the running Python's own library: real source text that every machine has."""
    return Path(sysconfig.get_path("stdlib"))


def find(sources: Sequence[str | Path], config: ReadConfig) -> list[Found]:
    """Every file below ``sources``, sorted, each path once.

    Hidden files and excluded folders are skipped; linked folders are not entered, so loops cannot
    happen. Raises DataError for a source that does not exist, or when nothing is found at all.
    """
    found: dict[str, Found] = {}
    names: dict[str, Path] = {}
    for root, given in _expand(sources):
        label = _unique_label(root, names)
        for path in [root] if given else _walk(root, config.exclude):
            relative = label if given else f"{label}/{path.relative_to(root).as_posix()}"
            found.setdefault(str(path.absolute()), _inspect(path, relative, given, config))
    if not found:
        spelled = ", ".join(str(source) for source in sources) or "no source"
        raise DataError(f"No files were found in {spelled}; give files or folders that hold text.")
    return sorted(found.values())


def fingerprint(listing: Sequence[Found]) -> str:
    """SHA-256 of names, sizes and times of change: whether a corpus is still the one that was read."""
    digest = hashlib.sha256()
    for file in listing:
        digest.update(f"{file.source}\0{file.bytes}\0{file.modified}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _expand(sources: Sequence[str | Path]) -> Iterator[tuple[Path, bool]]:
    for source in sources:
        path = Path(source).expanduser()
        if os.path.lexists(path):
            matches = [path]
        elif glob.has_magic(str(source)):
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        else:
            matches = []
        if not matches:
            raise DataError(f"There is no file or folder {source}; check the path.")
        for match in matches:
            yield match, not match.is_dir()


def _unique_label(root: Path, names: dict[str, Path]) -> str:
    root = root.absolute()
    base = root.name or "root"
    label, number = base, 1
    while names.setdefault(label, root) != root:
        number += 1
        label = f"{base}~{number}"
    return label


def _walk(root: Path, exclude: Sequence[str]) -> Iterator[Path]:
    unreadable: list[Path] = []

    def note(error: OSError) -> None:
        unreadable.append(Path(str(error.filename)))

    for folder, below, files in os.walk(root, onerror=note):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in exclude)
        yield from (Path(folder, name) for name in files if not name.startswith("."))
    yield from unreadable


def _inspect(path: Path, source: str, given: bool, config: ReadConfig) -> Found:
    # A name that is not UTF-8 has no place in a text column.
    source = source.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    kind, language, reason = kinds.classify(path, given=given)
    try:
        status = path.stat()
    except OSError as error:
        return Found(source, str(path), kind, language, 0, 0, "unreadable", error.strerror)
    if not stat.S_ISREG(status.st_mode):
        what = "folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        return Found(source, str(path), kind, language, 0, 0, "unreadable", what)
    if reason is None and config.suffixes and not given and not path.name.endswith(config.suffixes):
        reason = "other_suffix"
    size = status.st_size
    value = (path.suffix or None) if reason else None
    if reason is None and kind != kinds.LINES and size > config.max_document_bytes:
        reason, value = "too_large", str(size)
    return Found(source, str(path), kind, language, size, status.st_mtime_ns, reason, value)

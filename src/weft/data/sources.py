"""Finding the files of a corpus: folders, files, globs, addresses and standard input, one sorted listing."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import urlsplit

from weft.core.errors import DataError
from weft.data import kinds, standard_input
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
    happen. ``-`` is standard input; ``s3://``, ``hf://``, ``https://`` and the like go through the data
    engine. Raises DataError for a source that does not exist, or when nothing is found at all.
    """
    found: dict[str, Found] = {}
    names: dict[str, Path] = {}
    local: list[str | Path] = []
    for source in sources:
        if source == standard_input.NAME:
            file = _of_standard_input(config)
            found.setdefault(file.path, file)
        elif "://" in str(source):
            found.update((file.path, file) for file in _of_address(str(source), config))
        else:
            local.append(source)
    for root, given in _expand(local):
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


def _of_standard_input(config: ReadConfig) -> Found:
    path, number = standard_input.spool()
    # In place of the time of change, so that the same input is the same corpus.
    return replace(_inspect(path, path.name, True, config), modified=number)


def _of_address(source: str, config: ReadConfig) -> Iterator[Found]:
    # The one part of finding files that needs the data engine.
    from weft.data import addresses

    if not addresses.is_address(source):
        raise DataError(f"{source} is no address that can be read; give https://, s3://, gs:// or hf://.")
    files = addresses.listing(source)
    for address, size in files:
        path = PurePosixPath(urlsplit(address).path)
        given = len(files) == 1
        kind, language, reason = kinds.classify(path, given=given)
        yield _judged(Found(address, address, kind, language, size, 0, reason), path, given, config)


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
    size, modified = status.st_size, status.st_mtime_ns
    found = Found(source, str(path), kind, language, size, modified, reason)
    return _judged(found, path, given, config)


def _judged(found: Found, path: PurePath, given: bool, config: ReadConfig) -> Found:
    """The same with a reason where name or size already tell that it is not read."""
    reason = found.reason
    # Members of an archive have suffixes of their own.
    if reason is None and config.suffixes and not given and found.kind not in kinds.ARCHIVES:
        name = path.name
        if not name.endswith(config.suffixes) and not kinds.uncompressed_name(name).endswith(config.suffixes):
            reason = "other_suffix"
    if reason is not None:
        return replace(found, reason=reason, value=path.suffix or None)
    if found.bytes > config.max_document_bytes and found.kind in kinds.WHOLE and not kinds.compression(path):
        return replace(found, reason="too_large", value=str(found.bytes))
    return found

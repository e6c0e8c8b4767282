"""The hosts of a run: ``a,b,c`` or a file with one a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from weft.core.errors import UsageError

_NAME = re.compile(r"(?:[A-Za-z0-9_.-]+@)?[A-Za-z0-9_](?:[A-Za-z0-9_.:-]*[A-Za-z0-9_])?")
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Host:
    """``login`` is what ssh is given, ``USER@NAME`` or ``NAME``."""

    login: str

    @property
    def name(self) -> str:
        """What other hosts reach it by."""
        return self.login.rpartition("@")[2]

    @property
    def here(self) -> bool:
        """Whether it is this machine, so that no ssh is needed."""
        return self.name in _HERE


def listed(text: str) -> tuple[Host, ...]:
    """Hosts between commas; UsageError for one that no host can be called."""
    return tuple(_host(part.strip(), "--hosts") for part in text.split(",") if part.strip()) or _none(
        "--hosts"
    )


def from_file(file: Path) -> tuple[Host, ...]:
    """One host a line; ``#`` begins a comment, words after the name (``slots=8``) are for other programs."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The host file {file} cannot be read ({error}); check the path.") from None
    words = [line.partition("#")[0].split() for line in lines]
    return tuple(_host(word[0], str(file)) for word in words if word) or _none(str(file))


def _host(text: str, where: str) -> Host:
    # It becomes a word of a command line: a leading dash would be an option of ssh.
    if not _NAME.fullmatch(text):
        raise UsageError(f"{text!r} in {where} is no host name; write NAME or USER@NAME.")
    return Host(text)


def _none(where: str) -> tuple[Host, ...]:
    raise UsageError(f"{where} names no host; write for instance node1,node2.")

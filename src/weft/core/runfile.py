"""Values written into a run file that a person wrote: everything else in it stays as it is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.core.config import spell
from weft.core.errors import ConfigError
from weft.core.files import write_text_atomic


def write_values(file: Path, values: Mapping[str, Any]) -> None:
    """Set ``section.key`` to each value in the TOML ``file``, atomically.

    A line that sets the key is replaced, its comment kept; else one is added to the section's table, or
    the section to the end. Raises ConfigError when the file is not TOML, or writes the section in another
    way (dotted keys, inline tables), which is left alone.
    """
    text = file.read_text(encoding="utf-8")
    try:
        wanted = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}.") from None
    lines = text.splitlines()
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        table = wanted.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value
        _set(lines, section, key, value)
    changed = "\n".join(lines) + "\n"
    try:
        same = tomllib.loads(changed) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        settings = ", ".join(f"{name} = {spell(value)}" for name, value in values.items())
        raise ConfigError(f"{file} writes its tables in a way that cannot be edited; set {settings} by hand.")
    write_text_atomic(file, changed)


def _set(lines: list[str], section: str, key: str, value: Any) -> None:
    assignment = f"{key} = {spell(value)}"
    header = next((i for i, line in enumerate(lines) if _header(line) == section), None)
    if header is None:
        lines.extend(["", f"[{section}]", assignment] if lines else [f"[{section}]", assignment])
        return
    end = next((i for i in range(header + 1, len(lines)) if _header(lines[i]) is not None), len(lines))
    for index in range(header + 1, end):
        found = re.match(rf"\s*{re.escape(key)}\s*=[^#\"']*(#.*)?$", lines[index])
        if found or re.match(rf"\s*{re.escape(key)}\s*=", lines[index]):
            comment = f"  {found.group(1)}" if found and found.group(1) else ""
            lines[index] = assignment + comment
            return
    # After the last line of the table that says something.
    while end > header + 1 and not lines[end - 1].strip():
        end -= 1
    lines.insert(end, assignment)


def _header(line: str) -> str | None:
    found = re.match(r"\s*\[\s*([\w.-]+)\s*\]\s*(#.*)?$", line)
    return found.group(1) if found else None

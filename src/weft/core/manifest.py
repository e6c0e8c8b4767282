"""manifest.json: written last and atomically into every folder that a command makes.

It holds what was read (with hashes), the full configuration, the version of the code and the figures
of the run, so the lineage of a served model goes back to the text, and a repeated command knows that
its work is already done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.core.errors import DataError
from weft.core.files import hash_file, write_text_atomic
from weft.core.version import __version__

NAME = "manifest.json"
_KEYS = {"command", "weft", "config", "inputs", "outputs", "figures"}


def write(
    folder: Path,
    *,
    command: str,
    config: str,
    inputs: Mapping[str, str],
    figures: Mapping[str, Any],
    outputs: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Write ``folder/manifest.json`` and return its content.

    ``config`` is the resolved TOML text, ``inputs`` maps a name to its hash, ``outputs`` are file names
    inside ``folder`` whose hashes are recorded.
    """
    record = {
        "command": command,
        "weft": __version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": config,
        "inputs": dict(inputs),
        "outputs": {name: hash_file(folder / name) for name in outputs},
        "figures": dict(figures),
    }
    write_text_atomic(folder / NAME, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return record


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished folder, or None when the command that makes it has not finished."""
    file = folder / NAME
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        record = {}
    if not isinstance(record, dict) or not record.keys() >= _KEYS:
        raise DataError(f"{file} is damaged; delete the folder {folder} and run its command again.")
    return record


def is_done(folder: Path, *, command: str, config: str, inputs: Mapping[str, str]) -> bool:
    """Whether ``folder`` already holds the result of this command on these inputs with this config."""
    record = read(folder)
    return (
        record is not None
        and record["command"] == command
        and record["config"] == config
        and record["inputs"] == dict(inputs)
    )

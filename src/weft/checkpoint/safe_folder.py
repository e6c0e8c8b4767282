"""Reading a folder made by somebody else: nothing outside it is opened, nothing in it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weft.core.errors import CheckpointError
from weft.core.registry import nearest

CONFIG = "config.json"
RUN_MODEL = "model"
"""The folder inside a training run that holds its newest model."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def resolve(path: str | Path) -> Path:
    """The Hugging Face folder that ``path`` means: itself, or ``model`` inside a training run.

    Raises CheckpointError when there is none, with the nearest existing name.
    """
    path = Path(path)
    if path.is_file():
        beside = path.resolve().parent
        raise CheckpointError(f"{path} is a file; give the folder of the checkpoint, such as {beside}.")
    if not path.is_dir():
        raise CheckpointError(_missing(path))
    for folder in (path / RUN_MODEL, path):
        if (folder / CONFIG).exists():
            return folder
    pickles = pickled_files(path)
    if pickles:
        raise CheckpointError(_pickled(path, pickles))
    raise CheckpointError(
        f"{path} holds no {CONFIG}, so it is no checkpoint; give a training run that has saved a model, "
        "or a Hugging Face folder."
    )


def inside(folder: Path, name: str) -> Path:
    """``folder/name`` as a file that really lies in ``folder``; CheckpointError for any way out of it.

    The one link allowed to leave it is that of the Hugging Face cache, ``snapshots/X/name`` to ``blobs``.
    """
    file = folder / name
    if not name or "\\" in name or Path(name).name != name:
        raise CheckpointError(
            f"{folder} names the file {name!r}, which is outside the folder; only plain file names are read."
        )
    root = folder.resolve()
    roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        target = file.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name no file can have
        raise CheckpointError(f"{str(file)!r} cannot be a file; copy the checkpoint again.") from None
    if not any(target.is_relative_to(allowed) for allowed in roots):
        raise CheckpointError(f"{file} is a link to a place outside its folder; copy the file itself there.")
    return file


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of ``folder``; CheckpointError if it is missing, damaged or asks for code."""
    file = inside(folder, name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {name}; copy the whole checkpoint again.") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}; check the path.") from error
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file} is not valid JSON; copy the checkpoint again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold one JSON object; copy the checkpoint again.")
    if content.get("auto_map"):
        raise CheckpointError(
            f"{file} asks to run code of its own (auto_map), which is never done; use a checkpoint in a "
            "stock architecture."
        )
    return content


def refuse_pickles(folder: Path) -> None:
    """Raise CheckpointError if the weights of ``folder`` are pickles: opening one runs whatever it says."""
    pickles = pickled_files(folder)
    if pickles:
        raise CheckpointError(_pickled(folder, pickles))


def pickled_files(folder: Path) -> list[str]:
    """Names of the files in ``folder`` that are pickles by their ending."""
    return sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)


def _pickled(folder: Path, pickles: list[str]) -> str:
    return (
        f"{folder} holds its weights as a pickle ({pickles[0]}), which can run any code and is never opened; "
        "convert it to safetensors first."
    )


def _missing(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    guess = nearest(path.name, [entry.name for entry in parent.iterdir() if entry.is_dir()])
    hint = f"did you mean {parent / guess}?" if guess else "check the path."
    return f"There is no checkpoint at {path}; {hint}"

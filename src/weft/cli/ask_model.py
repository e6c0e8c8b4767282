"""What the verbs of tasks share: the texts they take, the model they open, how they tell answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from weft.cli.command import Record
from weft.core.errors import UsageError

TOGETHER = 64
"""Texts that are answered before the next are: answers of a long file come as they are there."""


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """CHECKPOINT and the option of its weights."""
    function = click.option("--dtype", help="Weights: float32 or bfloat16; by default float32.")(function)
    return click.argument("checkpoint", type=click.Path(path_type=Path))(function)


def texts(function: Callable[..., Any]) -> Callable[..., Any]:
    """CHECKPOINT, TEXT... and --file; :func:`read` makes texts of both."""
    where = click.option("--file", metavar="FILE", help="A text a line, UTF-8; - is standard input.")
    return checkpoint(click.argument("texts", nargs=-1, metavar="[TEXT]...")(where(function)))


def read(given: Sequence[str], file: str | None) -> list[str]:
    """The texts of the command line, or the lines of ``file``. UsageError for none, and for empty ones."""
    if bool(given) == (file is not None):
        raise UsageError("Give TEXT, one or several, or --file FILE; not both.")
    if file is None:
        return list(given)
    lines = [line.removesuffix("\r") for line in read_text(file).removesuffix("\n").split("\n")]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UsageError(f"Line {number} of {_called(file)} is empty; leave it out.")
    return lines


def read_text(file: str | Path) -> str:
    """A UTF-8 file, or standard input for "-". UsageError for what cannot be read."""
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else Path(file).read_bytes()
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{_called(file)} is not UTF-8 text.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); check the path.") from None


def tell(
    folder: Path,
    dtype: str | None,
    task: str,
    items: Sequence[Record],
    line: Callable[[Record], str],
    settings: Mapping[str, Any] | None = None,
) -> Record:
    """Ask for each item as :func:`weft.api.ask.ask` does, and print a ``line`` for its answer.

    Settings that are None keep their defaults.
    """
    from weft.api import load
    from weft.api.ask import ask

    given = {name: value for name, value in (settings or {}).items() if value is not None}
    model = load(folder, dtype)
    # With `--json -` standard output belongs to the record.
    aside = click.get_current_context().params.get("json_file") == "-"
    started = time.perf_counter()
    results: list[Record] = []
    for first in range(0, len(items), TOGETHER):
        found = ask(model, task, items[first : first + TOGETHER], given)
        for record in found:
            click.echo(one_line(line(record)), err=aside)
        results += found
    seconds = round(time.perf_counter() - started, 4)
    return {"checkpoint": str(folder), "task": task, "results": results, "seconds": seconds}


def label(record: Record) -> str:
    """A label and its probability."""
    return f"{record['label']}\t{record['score']:.3f}"


def written(record: Record) -> str:
    """A text, and others that the model might have written."""
    return "\t".join([record["text"], *(one["text"] for one in record.get("alternatives", ()))])


def pieces(record: Record) -> str:
    """The labelled pieces of a text with their places; a dash for none."""
    found = [f"{one['label']} {one['text']} [{one['start']}:{one['end']}]" for one in record["spans"]]
    return "\t".join(found) or "-"


def one_line(text: str) -> str:
    """The text in one line, without what could command the terminal."""
    lines = text.replace("\r\n", " ").replace("\n", " ")
    return "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in lines)


def _called(file: str | Path) -> str:
    return "Standard input" if str(file) == "-" else str(file)

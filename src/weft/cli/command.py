"""What every verb of the command line shares: the result record, exit codes, one-sentence errors."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

import click

from weft.core.errors import Interrupted, WeftError
from weft.core.files import write_text_atomic

Record = dict[str, Any]

_INTERRUPTED = "Interrupted; run the same command again to continue."


def weft_command(name: str) -> Callable[[Callable[..., Record | None]], click.Command]:
    """Turn a function that returns its result record into a verb.

    Adds ``--json FILE`` (``-`` for standard output), turns WeftError into one line on standard error
    and the exit code of its class, and Ctrl-C or SIGTERM into exit 130.
    """

    def decorate(function: Callable[..., Record | None]) -> click.Command:
        @functools.wraps(function)
        def run(json_file: str | None, **arguments: Any) -> None:
            interrupt = functools.partial(_interrupt, function.__code__)
            signal.signal(signal.SIGTERM, interrupt)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, interrupt)
            _open_what_is_closed()
            _spell_what_is_unknown()
            try:
                record = function(**arguments)
                if json_file is not None:
                    _write_record({"command": name, **(record or {})}, json_file)
            except WeftError as error:
                _fail(str(error), error.exit_code)
            except KeyboardInterrupt:
                _fail(_INTERRUPTED, Interrupted.exit_code)
            except OSError as error:
                refused_by_the_system(error)
            except MemoryError:
                _fail("The machine ran out of memory; give smaller sizes or close other programs.", 1)

        option = click.option(
            "--json", "json_file", metavar="FILE", help="Write the result record there; - is standard output."
        )
        return click.command(name, help=function.__doc__)(option(run))

    return decorate


def say(text: str) -> None:
    """Print a line for people: on standard error where standard output belongs to the record."""
    click.echo(text, err=click.get_current_context().params["json_file"] == "-")


def run_file_or_setting(
    run_file: Path | None, overrides: tuple[str, ...]
) -> tuple[Path | None, tuple[str, ...]]:
    """A first argument that is SECTION.KEY=VALUE and no file belongs to the settings."""
    if run_file is not None and "=" in str(run_file) and not run_file.exists():
        return None, (str(run_file), *overrides)
    return run_file, overrides


def _interrupt(verb: CodeType, number: int, frame: FrameType | None) -> NoReturn:
    """Ctrl-C or SIGTERM. While a verb imports what it needs, some libraries swallow an exception; nothing is
    begun then, so the process just ends."""
    called: list[FrameType] = []
    while frame is not None and frame.f_code is not verb:
        called.append(frame)
        frame = frame.f_back
    # What the verb calls first comes last. Its helpers are of this package, and have begun nothing either.
    below = itertools.dropwhile(_of_the_command_line, reversed(called))
    if frame is not None and next(map(_imports, below), False):
        with contextlib.suppress(OSError):
            os.write(2, f"weft: {_INTERRUPTED}\n".encode())
        os._exit(Interrupted.exit_code)
    raise KeyboardInterrupt


def _of_the_command_line(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("weft.cli.")


def _imports(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib")


def _open_what_is_closed() -> None:
    """Standard streams that were closed before the start, as some supervisors do, are there and empty."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def refused_by_the_system(error: OSError) -> NoReturn:
    """The end of a command that may not read or write something, or whose output nobody takes."""
    if not isinstance(error, BrokenPipeError) and error.errno not in (errno.ENOSPC, errno.EIO):
        _fail(f"{error.filename or 'The system'}: {error.strerror or error}.", 1)
    # What is still held back would fail again at the exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        _fail(f"{error.filename or 'The output'} cannot be written ({error.strerror}).", 1)
    # The reader went away (`weft ... | head`): not an error of ours.
    sys.exit(1)


def _spell_what_is_unknown() -> None:
    """A terminal in GBK, say, shows a character that it lacks by its number, instead of ending the work."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _write_record(record: Record, target: str) -> None:
    text = json.dumps(record, ensure_ascii=False, indent=1, default=str) + "\n"
    if target != "-":
        write_text_atomic(Path(target), text)
        return
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(record, indent=1, default=str) + "\n"
    click.echo(text, nl=False)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"weft: {message}", err=True)
    sys.exit(code)

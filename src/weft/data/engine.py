"""The data engine, Daft, imported in one place: quiet, and safe to stop.

Only the pipeline's modules import this; tokenizer, shards and loader work without the engine.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from weft.core.errors import ResourceError, UsageError
from weft.core.files import disk_errors

# An interrupted query is closed by the garbage collector, of which asyncio, or the interpreter when no loop
# runs any more, would print a traceback beside the one sentence that matters.
logging.getLogger("asyncio").addFilter(lambda record: "NativeExecutor" not in record.getMessage())
# The error itself is raised; its line in the log would stand beside the one sentence.
logging.getLogger("daft_local_execution").setLevel(logging.CRITICAL)
_earlier_hook = sys.unraisablehook


def _quiet_hook(unraisable: Any) -> None:
    if "NativeExecutor" not in repr(unraisable.object):
        _earlier_hook(unraisable)


sys.unraisablehook = _quiet_hook

# Both are read when Daft is imported.
os.environ["DO_NOT_TRACK"] = "1"
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

try:
    import daft
    import xxhash
except ImportError as error:
    raise ResourceError(
        f"The data engine is not installed ({error.name}); run pip install 'weft[data]'."
    ) from error

__all__ = ["batch_function", "daft", "guard", "spread", "use", "write_errors", "xxhash"]

_PROBE_BYTES = 4 << 20
_DRAIN_SECONDS = 5.0
_SWITCH_SECONDS = 0.0005

_stopping = threading.Event()
_running = 0
_on: str | None = None
_counting = threading.Lock()


def use(on: str) -> None:
    """Run on this machine's threads (``local``), on a Ray of this machine (``ray``) or a cluster (``ray://…``).

    Must come before the first query of the process. Raises ResourceError when Ray is not installed or the
    cluster does not answer, UsageError for another spelling or a second, different choice.
    """
    global _on
    if on == _on:
        return
    if on != "local" and on != "ray" and not on.startswith("ray://"):
        raise UsageError(f"on = {on!r} is not possible; give local, ray or ray://HOST:PORT.")
    if _on is not None and _on != "local":
        raise UsageError(f"This process works on {_on} already; start another one for {on}.")
    if on != "local":
        _connect(on)
    _on = on


def spread(frame: Any, parts: int) -> Any:
    """The frame in ``parts`` pieces that different machines may take; the same on this machine's threads."""
    return frame if _on in (None, "local") else frame.into_partitions(parts)


def _connect(on: str) -> None:
    try:
        import ray
    except ImportError:
        raise ResourceError("Ray is not installed; run pip install 'weft[ray]'.") from None
    address = on if on.startswith("ray://") else None
    try:
        if not ray.is_initialized():
            ray.init(
                address=address,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"DO_NOT_TRACK": "1", "DAFT_PROGRESS_BAR": "0"}},
            )
        daft.set_runner_ray(noop_if_initialized=True)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # Ray begins with "Initialization failure from server:" and a traceback; the cause stands last.
        said = (lines or [type(error).__name__])[-1 if lines and lines[0].endswith(":") else 0][:200]
        raise ResourceError(
            f"The Ray cluster {on} does not answer ({said}); check the address and that its versions of "
            "Python, Ray and Weft are these; if it asks for a token, set RAY_AUTH_MODE=token."
        ) from error


def batch_function(
    returns: Any, rows: int | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function of whole columns, called on at most ``rows`` rows at a time, for use in expressions."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*columns: Any) -> Any:
            return tracked(function, columns)

        decorated: Callable[..., Any] = daft.func.batch(return_dtype=returns, batch_size=rows)(run)
        return decorated

    return decorate


def tracked(function: Callable[..., Any], columns: tuple[Any, ...]) -> Any:
    """Call ``function`` and count it as running. Of this module, because the engine pickles functions."""
    global _running
    if _stopping.is_set():
        raise RuntimeError("the engine is stopping")
    with _counting:
        _running += 1
    try:
        return function(*columns)
    finally:
        with _counting:
            _running -= 1


@contextlib.contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Around a write of the engine into ``folder``: a full disk becomes ResourceError.

    The engine loses the reason of a failed write ("channel closed"), so a probe finds it: a file is
    written beside what the engine could not write, whose OSError says what is wrong.
    """
    try:
        yield
    except Exception:
        probe = folder / "probe"
        with disk_errors(folder):
            try:
                probe.write_bytes(bytes(_PROBE_BYTES))
            finally:
                probe.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def guard() -> Iterator[Callable[[], None]]:
    """Around all work of the engine; yields a check to call before its results count.

    The engine has its own handler of Ctrl-C, which ends a query early and returns what there is as if
    it were all. Where Python does not raise the interrupt (a background job that ignores SIGINT) the check
    does, so partial results never pass for whole ones. When the block fails, functions still running in
    the engine's threads are waited for, because leaving Python under them aborts the process.
    """
    with _noted_interrupts() as interrupted, _frequent_switches():

        def check() -> None:
            if interrupted.is_set():
                raise KeyboardInterrupt

        try:
            yield check
            check()
        except BaseException as error:
            _drain()
            if not isinstance(error, Exception) or interrupted.is_set():
                raise KeyboardInterrupt from error
            raise


@contextlib.contextmanager
def _noted_interrupts() -> Iterator[threading.Event]:
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals; there Python raises the interrupt itself.
        yield noted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        earlier = before[signal.SIGINT]
        if callable(earlier):
            earlier(number, frame)

    def pass_on(number: int, frame: FrameType | None) -> None:
        # The engine listens to SIGINT only, and stops in good order on it.
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, note)
    if callable(before[signal.SIGTERM]):
        signal.signal(signal.SIGTERM, pass_on)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _frequent_switches() -> Iterator[None]:
    """A thread back from native code waits at most half a millisecond for Python, not five.

    Batches take some milliseconds in each function, so the default left cores idle for a tenth of the time.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _drain() -> None:
    _stopping.set()
    deadline = time.monotonic() + _DRAIN_SECONDS
    while _running and time.monotonic() < deadline:
        time.sleep(0.02)
    # What the engine does with the last results after our function has returned.
    time.sleep(0.1)
    _stopping.clear()

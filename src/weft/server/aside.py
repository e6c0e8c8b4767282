"""Calls that may hang, each in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def aside(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """What ``call`` will give, or raise; whoever stops waiting leaves it to itself.

    The end of the process waits for the threads of a pool, and for none of these.
    """
    found: Future[T] = Future()
    # From here on nobody cancels it under the thread's hands.
    found.set_running_or_notify_cancel()

    def work() -> None:
        try:
            found.set_result(call())
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return asyncio.wrap_future(found)

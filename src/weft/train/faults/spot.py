"""Where a thread stands: the collective that it waits in, and the line of ours that called it."""

from __future__ import annotations

import linecache
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_ROOT = str(Path(__file__).parents[2])
_COLLECTIVES = re.compile(
    r"(all_gather|all_reduce|all_to_all|barrier|batch_isend_irecv|broadcast|gather|irecv|isend|monitored_barrier"
    r"|recv|reduce|reduce_scatter|scatter|send|wait_tensor|foreach_all_gather|foreach_reduce)"
    r"(_coalesced|_into_tensor|_tensor|_object|_object_list|_single|_copy_out)?"
    r"|init_process_group|new_group"
)

_JOINS = re.compile(r"join|_wait_for_tstate_lock|wait")


@dataclass(frozen=True)
class Spot:
    """``collective``: its name, empty outside of one; ``place``: ``train/step.py:40 run``, ours innermost."""

    collective: str = ""
    place: str = ""

    def __str__(self) -> str:
        if not self.place:
            return self.collective or "code that is not ours"
        return f"{self.collective} ({self.place})" if self.collective else self.place


def spot_of(frame: FrameType | None) -> Spot:
    """The spot of a thread whose innermost frame is ``frame``."""
    collective, place = "", ""
    while frame is not None and not place:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not collective and _COLLECTIVES.fullmatch(name) and "/torch/distributed/" in file:
            collective = name
        if file.startswith(_ROOT):
            place = f"{file[len(_ROOT) + 1 :]}:{frame.f_lineno} {name}"
            # The wait for a collective that was begun before is native code: only our line shows it.
            if not collective and ".wait(" in linecache.getline(file, frame.f_lineno):
                collective = "wait"
        frame = frame.f_back
    return Spot(collective, place)


class Stillness:
    """How long the main thread has stood on one spot without working."""

    def __init__(self) -> None:
        thread = threading.main_thread()
        assert thread.ident is not None
        self._thread = thread.ident
        self._clock = time.pthread_getcpuclockid(thread.ident)
        self._stack: tuple[tuple[int, int], ...] = ()
        self._since = self._last = time.monotonic()
        self._worked = time.clock_gettime(self._clock)
        self.spot = Spot()

    def look(self) -> float:
        """Seconds since the thread last moved or computed; also renews ``spot``.

        A long native call keeps the stack as it is, but uses the processor; a wait does neither. Inside a
        collective the processor does not count, because some libraries wait by spinning.
        """
        now, worked = time.monotonic(), time.clock_gettime(self._clock)
        frames = sys._current_frames()
        frame = frames.pop(self._thread, None)
        stack, self.spot = _stack(frame), spot_of(frame)
        if frame is not None and _JOINS.fullmatch(frame.f_code.co_name):
            # It waits for a thread of ours, which saves or loads: where that stands is what matters.
            found = map(spot_of, frames.values())
            self.spot = next((spot for spot in found if spot.collective and spot.place), self.spot)
        busy = worked - self._worked > 0.1 * (now - self._last) and not self.spot.collective
        if busy or stack != self._stack:
            self._since = now
        self._stack, self._last, self._worked = stack, now, worked
        return now - self._since


def _stack(frame: FrameType | None) -> tuple[tuple[int, int], ...]:
    found = []
    while frame is not None:
        found.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return tuple(found)

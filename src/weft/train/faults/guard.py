"""The guard of a run over several processes: a heartbeat, a watch for hangs, faults told in a sentence."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from weft.core.errors import Interrupted, TrainingError, WeftError
from weft.parallel.world import World
from weft.train.faults import beat, report, verdict
from weft.train.faults.beat import Beat
from weft.train.faults.inject import injector
from weft.train.faults.spot import Spot, Stillness, spot_of
from weft.train.hooks import Hook

FOLDER = "heartbeats"
"""In the run folder: one small file a rank."""

_TIMED_OUT = re.compile(r"tim(ed|e) ?out", re.IGNORECASE)
_AGAIN = "the same command continues from the newest checkpoint"


class Guard:
    """Of one rank: writes its heartbeat and ends the process when it stands still for ``timeout`` seconds.

    It is a hook of the loop, which tells it the finished steps.
    """

    def __init__(self, folder: Path, world: World, timeout: float):
        self._folder, self._world, self._timeout = folder, world, timeout
        self._interval = min(1.0, timeout / 10)
        # The step is the main thread's, the rest of the beat belongs to the thread that watches.
        self.step = 0
        self._beat = Beat(world.rank, report.round_name())
        self._stop = threading.Event()
        self._stillness = Stillness()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        with contextlib.suppress(OSError):
            self._beats.mkdir(parents=True, exist_ok=True)
        self._beat.write(self._beats)
        self._thread.start()

    def begin(self, finished: int) -> None:
        """So many steps are finished; the next one begins."""
        self.step = finished + 1

    def after_step(self, record: dict[str, Any]) -> None:
        """The step of ``record`` is finished."""
        self.begin(record["step"])

    def close(self) -> None:
        """Part of a hook; the guard stays until the session ends."""

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()
        self._thread.join()

    @property
    def _beats(self) -> Path:
        return self._folder / FOLDER

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            still = self._stillness.look()
            self._write(still=still)
            if still > self._timeout:
                self._hung(still)

    def _write(self, *, still: float = 0.0, ended: str = "") -> None:
        spot, count = self._stillness.spot, self._beat.count + 1
        self._beat = Beat(
            self._world.rank,
            self._beat.round,
            self.step,
            spot.collective,
            spot.place,
            count,
            round(still, 1),
            ended,
        )
        self._beat.write(self._beats)

    def _hung(self, still: float) -> None:
        found = self._judge()
        sentence = f"{found.sentence}, for {still:.0f} s; {_AGAIN}."
        fault = report.Fault(
            found.kind, found.ranks, found.step, found.collective, sentence, False, self._world.rank
        )
        if fault.write(self._folder, self._seen()):
            print(f"weft: {sentence}", file=sys.stderr)
        report.tell_agent(sentence)
        with contextlib.suppress(OSError):
            stacks = self._folder / "faults" / f"stacks-rank-{self._world.rank}.txt"
            with stacks.open("w") as stream:
                faulthandler.dump_traceback(stream)
        sys.stderr.flush()
        # The main thread stands in native code: nothing but the end of the process frees it.
        os._exit(TrainingError.exit_code)

    def _judge(self) -> verdict.Verdict:
        """The verdict, after time enough for every living rank to beat once more."""
        first = beat.read(self._beats, self._beat.round)
        for _ in range(30):
            time.sleep(self._interval / 10)
            if any(
                not b.alive(None) for b in first.values() if b.host == beat.HERE and b.rank != self._beat.rank
            ):
                break
        return verdict.judge(self._beat, self._world.size, first, beat.read(self._beats, self._beat.round))

    def _seen(self) -> list[dict[str, Any]]:
        return [asdict(b) for _, b in sorted(beat.read(self._beats, self._beat.round).items())]

    def failed(self, error: BaseException) -> WeftError | None:
        """Report ``error``, which ends this rank; the sentence to raise instead, if there is a better one."""
        self.stop()
        _deaf()
        self._stillness.spot = _spot_of_error(error)
        if isinstance(error, WeftError):
            self._tell("failed", error.ranks or (self._world.rank,), str(error), error, final=True)
            return None
        self._write()
        found = self._judge() if self._stillness.spot.collective else None
        if found is not None and (found.kind != "hung" or _TIMED_OUT.search(str(error))):
            sentence = f"{found.sentence}; {_AGAIN}."
            self._tell(found.kind, found.ranks, sentence, error, final=False, collective=found.collective)
            return TrainingError(sentence, found.ranks)
        where = f"rank {self._world.rank} failed in {self._stillness.spot}"
        sentence = f"Step {self.step}: {where}: {error!r}"
        self._tell("failed", (self._world.rank,), sentence, error, final=False)
        return None

    def _tell(
        self,
        kind: str,
        ranks: tuple[int, ...],
        sentence: str,
        error: BaseException,
        *,
        final: bool,
        collective: str = "",
    ) -> None:
        trace = "".join(traceback.format_exception(error))
        fault = report.Fault(kind, ranks, self.step, collective, sentence, final, self._world.rank)
        fault.write(self._folder, self._seen(), trace)
        self._write(ended=sentence)
        report.tell_agent(sentence, error)


def patience(timeout: float) -> timedelta:
    """How long collectives wait: longer than the guard, which can say more than the library."""
    return timedelta(seconds=timeout + 60)


def refuse_again(folder: Path) -> None:
    """TrainingError when this is a restart of a run that a fault has ended which would come again."""
    before = report.ended_for_good(folder)
    if before is not None:
        report.tell_agent(before)
        raise TrainingError(before)


def watchers(guard: Guard | None, rank: int, module: nn.Module, folder: Path, finished: int) -> list[Hook]:
    """The hooks of every rank, told that ``finished`` steps are done."""
    found = [hook for hook in (guard, injector(rank, module, folder)) if hook is not None]
    for hook in found:
        hook.begin(finished)
    return list(found)


@contextlib.contextmanager
def guarded(folder: Path, world: World, timeout: float) -> Iterator[Guard | None]:
    """Watch over the block; None where an agent did not start this process, or it is alone.

    Raises TrainingError instead of what a library says when another rank is lost.
    """
    if not report.round_name():
        yield None
        return
    guard = Guard(folder, world, timeout)
    guard.start()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _hear) if main else None
    try:
        yield guard
    except Interrupted:
        raise
    except Exception as error:
        better = guard.failed(error)
        if better is not None:
            raise better from error
        raise
    finally:
        guard.stop()
        # After a fault it stays as it is: this process only ends.
        if main and signal.getsignal(signal.SIGTERM) is _hear:
            signal.signal(signal.SIGTERM, before)


def _hear(number: int, frame: FrameType | None) -> None:
    """SIGTERM outside of the loop: stop at once, unless an error is on its way out: it must be told first."""
    if not isinstance(sys.exc_info()[1], Exception):
        raise KeyboardInterrupt


def _deaf() -> None:
    """Hear no SIGTERM any more: the agent sends it to all ranks as soon as one has ended."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _spot_of_error(error: BaseException) -> Spot:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return spot_of(trace.tb_frame if trace is not None else None)

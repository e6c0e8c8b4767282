"""What a runner is asked and what it answers. Standard library only: every environment reads this file.

A job is a JSON object with the fields of `Job`. The answer is a JSON object:

    system               the name to print
    versions             {package: version}
    step_seconds         seconds of each step, from the end of the step before it to its own end: fetching the
                         rows, forward, backward, clipping, update and the system's own logging
    step_cpu_seconds     processor seconds (user and system, all threads) of the same steps: beside the
                         wall time
                         they show whether the machine was shared
    losses               mean cross-entropy in nats over the targets of each step, before its update
    peak_memory_bytes    largest resident size of the process up to the end of the last step; on a GPU
                         the most that the caching allocator held there
    startup_seconds      from the start of the runner's main to the start of the first step
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One training run.

    ``rows`` is a .npy file of unsigned tokens [steps * batch_rows, T + 1]; step s takes rows
    s * batch_rows to (s + 1) * batch_rows, in order. The learning rate of step s (from 0) is
    learning_rate * s / warmup_steps during warm-up, then constant or a cosine down to
    learning_rate * final_ratio at the last step. ``model`` is a Hugging Face folder; with ``own_weights``
    only its shape is used, and the system draws its first weights as it does by default. ``export`` is the
    folder for the trained weights, in Hugging Face's names; none are written without it.
    """

    model: str
    rows: str
    batch_rows: int
    steps: int
    scratch: str
    threads: int
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_steps: int = 3
    final_ratio: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0
    compile: bool = False
    own_weights: bool = False
    export: str | None = None
    device: str = "cpu"
    arithmetic: str = "auto"

    @classmethod
    def read(cls, path: str) -> Job:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**values, "betas": tuple(values["betas"])})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")


class StepClock:
    """Wall time of each step, and the peak of memory so far; ``gpu`` gives the latter on a GPU."""

    def __init__(self, gpu: Callable[[], int] | None = None) -> None:
        self.gpu = gpu
        self.began = 0.0
        self.step_seconds: list[float] = []
        self.step_cpu_seconds: list[float] = []
        self.peak_memory_bytes = 0
        self._last = 0.0
        self._cpu_last = 0.0

    def start(self) -> None:
        self.began = self._last = time.perf_counter()
        self._cpu_last = time.process_time()

    def step(self) -> None:
        now = time.perf_counter()
        self.step_seconds.append(now - self._last)
        self._last = now
        cpu = time.process_time()
        self.step_cpu_seconds.append(cpu - self._cpu_last)
        self._cpu_last = cpu
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak_memory_bytes = resident if self.gpu is None else self.gpu()


def write_result(
    path: Path,
    *,
    system: str,
    versions: dict[str, str],
    clock: StepClock,
    losses: list[float],
    startup_seconds: float,
) -> None:
    record = {
        "system": system,
        "versions": versions,
        "step_seconds": clock.step_seconds,
        "step_cpu_seconds": clock.step_cpu_seconds,
        "losses": losses,
        "peak_memory_bytes": clock.peak_memory_bytes,
        "startup_seconds": startup_seconds,
    }
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")

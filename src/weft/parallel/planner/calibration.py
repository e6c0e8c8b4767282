"""What was measured of one machine, fitted and kept: a file per machine under the user's cache folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weft.core.files import write_text_atomic
from weft.core.hardware import Machine, probe
from weft.parallel.planner.collectives import Fit
from weft.parallel.planner.estimate import World
from weft.parallel.planner.hardware import Cluster
from weft.parallel.planner.job import WORK_BYTES, Job
from weft.parallel.planner.rates import Fitted

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Crowd:
    """``processes`` measured at a time: coefficients of each piece, the resident bytes before a step.

    ``skew``: time of the slowest process by the mean of all; ``measured``: the seconds that the coefficients
    were fitted to, as :mod:`.probe` gave them.
    """

    processes: int
    coefficients: Mapping[str, tuple[float, ...]]
    resident: float
    fits: tuple[Fit, ...] = ()
    skew: float = 1.0
    measured: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Calibration:
    """One machine, one dtype. ``lone``: seconds of the same blocks while so many processes of one core each
    work; ``warm``: bytes that the first step adds for good; ``fragments``: resident bytes a live byte;
    ``pipeline``: bytes that PyTorch's pipelines load."""

    machine: str
    dtype: str
    peak: float
    crowds: tuple[Crowd, ...]
    lone: Mapping[int, float]
    warm: float
    fragments: float
    pipeline: float = 0.0
    seconds: float = 0.0

    def world(self, cluster: Cluster, job: Job) -> World:
        """The cluster of this machine's processes with measured rates."""
        crowd = min(self.crowds, key=lambda c: (abs(c.processes - cluster.size), c.processes))
        # Beyond the cores every further process takes its share from the others.
        scale = max(1.0, cluster.size / max(crowd.processes, cluster.cores or 1))
        device = dataclasses.replace(
            cluster.device,
            runtime=crowd.resident + self.warm,
            pipeline=self.pipeline,
            fragments=self.fragments,
            source="calibrated",
        )
        rates = Fitted(
            WORK_BYTES[job.dtype], crowd.coefficients, self._speeds(cluster.size), scale, crowd.skew
        )
        fits = tuple(fit for c in self.crowds for fit in c.fits)
        measured = dataclasses.replace(cluster, device=device)
        return World.of(measured, rates, fits, self.peak)

    def _speeds(self, processes: int) -> dict[int, float]:
        """Speed of each of n working processes, by that while all work."""
        if processes == 1 or len(self.lone) < 2:
            return {}
        known = sorted(self.lone)
        times = [self.lone[n] for n in known]
        whole = float(np.interp(processes, known, times))
        return {n: whole / float(np.interp(n, known, times)) for n in range(1, processes + 1)}

    def text(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def read(cls, text: str) -> Calibration:
        """From JSON; ValueError, KeyError or TypeError where it is another program's or damaged."""
        table = json.loads(text)
        crowds = tuple(_crowd(entry) for entry in table.pop("crowds"))
        lone = {int(n): float(s) for n, s in table.pop("lone").items()}
        return cls(crowds=crowds, lone=lone, **table)


def _crowd(entry: dict[str, Any]) -> Crowd:
    coefficients = {piece: tuple(values) for piece, values in entry["coefficients"].items()}
    fits = tuple(Fit(**fit) for fit in entry["fits"])
    measured = tuple(entry.get("measured", ()))
    return Crowd(entry["processes"], coefficients, entry["resident"], fits, entry.get("skew", 1.0), measured)


def folder() -> Path:
    """``$XDG_CACHE_HOME/weft/planner``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "weft" / "planner"


def file_of(dtype: str, machine: Machine | None = None) -> Path:
    """Where the calibration of this machine for ``dtype`` is kept."""
    found = machine or probe()
    name = hashlib.sha256(found.describe().encode()).hexdigest()[:12]
    return folder() / f"{name}-{dtype}.json"


def load(dtype: str) -> Calibration | None:
    """This machine's calibration, or None; a damaged file counts as none."""
    try:
        return Calibration.read(file_of(dtype).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(calibration: Calibration) -> Path:
    """Keep it; returns the file."""
    file = file_of(calibration.dtype)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, calibration.text() + "\n")
    return file


def not_negative(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[float, ...]:
    """Coefficients >= 0 of least relative squares: sum of ((x . c - t) / t)^2, by coordinate descent."""
    x: Array = np.asarray(features, dtype=np.float64) / np.asarray(seconds, dtype=np.float64)[:, None]
    scale = np.where(x.max(axis=0) > 0, x.max(axis=0), 1.0)
    x = x / scale
    gram, target = x.T @ x, x.T @ np.ones(len(seconds))
    found: Array = np.zeros(x.shape[1])
    for _ in range(5000):
        for i in range(len(found)):
            if gram[i, i] > 0:
                rest = target[i] - gram[i] @ found + gram[i, i] * found[i]
                found[i] = max(0.0, rest / gram[i, i])
    return tuple(float(c) for c in found / scale)


def fragments(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(warm, factor) of resident = warm + factor * live over (live, resident) bytes; a factor >= 1."""
    live, resident = (np.asarray(values, dtype=np.float64) for values in zip(*points, strict=True))
    if len(points) < 2:
        return max(0.0, float(resident[0] - live[0])), 1.0
    factor = max(1.0, float(np.polyfit(live, resident, 1)[0]))
    return max(0.0, float((resident - factor * live).mean())), factor

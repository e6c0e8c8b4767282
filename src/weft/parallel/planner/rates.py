"""Seconds of a piece of work: by a device's published figures, or as this machine was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from weft.parallel.planner.hardware import Cluster
from weft.parallel.planner.work import Work

PIECES = ("forward", "backward", "embedding", "loss", "adamw", "muon", "clip")


class Rates(Protocol):
    """What turns work into seconds."""

    def seconds(self, piece: str, work: Work) -> float:
        """Seconds of ``work``, which is one of PIECES, on one rank while every rank works."""
        ...

    @property
    def skew(self) -> float:
        """How much longer the slowest of the ranks takes than their mean: who meets after every block
        waits for it."""
        ...

    def speed(self, working: int) -> float:
        """How fast each rank is while only ``working`` of a host's ranks compute; 1 while all do."""
        ...


@dataclass(frozen=True)
class Published:
    """A roofline over the data sheet: a product takes as long as its operations or its bytes do."""

    cluster: Cluster
    dtype: str
    skew: float = 1.0

    def seconds(self, piece: str, work: Work) -> float:
        """Every product at its own share of the rate; pointwise work at memory bandwidth."""
        device = self.cluster.device
        item = 4 if self.dtype == "fp32" else 2
        bandwidth = device.bandwidth * device.stream_share
        dtype = self._format(piece)
        rate = device.rate(dtype) * device.matrix_share
        total = work.stream / bandwidth + work.calls * device.launch
        for m, k, n in work.products:
            compute = 2.0 * m * k * n / (rate * filled(m, k, n))
            total += work.times * max(compute, item * (m * k + k * n + m * n) / bandwidth)
            if dtype == "fp8":
                # Operands are read for their largest value, read again and written in fp8.
                total += work.times * 5.0 * (m * k + k * n) / bandwidth
        attention = "bf16" if self.dtype == "fp8" else self.dtype
        total += work.attention / (device.rate(attention) * device.attention_share)
        return total * self._shared()

    def _format(self, piece: str) -> str:
        """Muon orthogonalises in bf16 where that is fast, fp8 leaves the loss in bf16, all else keeps the
        dtype of the step."""
        rates = dict(self.cluster.device.rates)
        if piece == "muon":
            return "bf16" if rates["bf16"] >= rates.get("fp32", 0.0) else "fp32"
        return "bf16" if piece == "loss" and self.dtype == "fp8" else self.dtype

    def speed(self, working: int) -> float:
        """A host's cores are shared; devices are not."""
        cores = self.cluster.cores
        if not cores:
            return 1.0
        return min(1.0, cores / working) / min(1.0, cores / self.cluster.per_node)

    def _shared(self) -> float:
        cores = self.cluster.cores
        return max(1.0, self.cluster.per_node / cores) if cores else 1.0


def filled(m: int, k: int, n: int) -> float:
    """Share of its best rate that a product of this shape reaches: small sides leave units idle."""
    return 1.0 / (1.0 + 64.0 * (1.0 / m + 1.0 / k + 1.0 / n))


@dataclass(frozen=True)
class Fitted:
    """Measured: for each piece coefficients of :meth:`Work.features`; for ``ranks`` processes at a time.

    ``speeds``: how much faster a rank is while fewer of a host work, by their number.
    """

    item: int
    coefficients: Mapping[str, tuple[float, ...]]
    speeds: Mapping[int, float]
    scale: float = 1.0
    skew: float = 1.0

    def seconds(self, piece: str, work: Work) -> float:
        """The fitted sum."""
        known = self.coefficients[piece]
        pairs = zip(known, work.features(self.item), strict=True)
        return self.scale * sum(c * f for c, f in pairs)

    def speed(self, working: int) -> float:
        """The nearest measured number of working ranks."""
        if not self.speeds:
            return 1.0
        near = min(self.speeds, key=lambda n: abs(n - working))
        return self.speeds[near]

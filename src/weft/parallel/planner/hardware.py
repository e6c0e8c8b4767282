"""The machines that a plan is for, as data: devices, links, nodes. Nothing here is measured or imported.

A device is what one process computes with: a GPU, or on a CPU host its share of the cores. Bandwidths are
of one process and one direction, in bytes a second; latencies are of one message, in seconds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from weft.core.errors import ConfigError, UsageError

GIB = 2**30


@dataclass(frozen=True)
class Link:
    """``seconds = latency + bytes / bandwidth`` of one message between two processes."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Device:
    """What one process computes with.

    ``memory``: bytes; ``bandwidth``: bytes/s of its memory; ``rates``: published dense matrix FLOP/s by
    dtype; ``matrix_share``: share of that rate that large products reach; ``attention_share``: the same of
    fused attention; ``stream_share``: share of the memory bandwidth that pointwise work reaches;
    ``launch``: seconds that any operation costs at least; ``runtime``: bytes that the process holds before
    any tensor (context, libraries, communicators); ``pipeline``: bytes that PyTorch's pipelines load beside;
    ``fragments``: bytes that the allocator takes for each
    live byte; ``price``: money an hour; ``source``: where the figures
    come from.
    """

    name: str
    memory: float
    bandwidth: float
    rates: tuple[tuple[str, float], ...]
    kind: str = "gpu"
    matrix_share: float = 0.72
    attention_share: float = 0.5
    stream_share: float = 0.8
    launch: float = 4e-6
    runtime: float = 2.5 * GIB
    pipeline: float = 0.0
    fragments: float = 1.0
    price: float | None = None
    source: str = ""

    def rate(self, dtype: str) -> float:
        """Published FLOP/s for ``dtype``; ConfigError where the device has none."""
        for name, rate in self.rates:
            if name == dtype:
                return rate
        known = ", ".join(name for name, _ in self.rates)
        raise ConfigError(f"{self.name} has no {dtype} matrix arithmetic; choose one of {known}.")


@dataclass(frozen=True)
class Cluster:
    """``nodes`` hosts of ``per_node`` devices.

    ``inside``: the link between two devices of a node; ``between``: of a device to another node;
    ``host_memory``: bytes of a node's own memory; ``overlap``: share of communication that can run while the
    device computes; ``slowdown``: factor on compute that runs beside communication; ``cores``: on a CPU host
    the cores that all its processes share, 0 where each device is its own.
    """

    name: str
    nodes: int
    per_node: int
    device: Device
    inside: Link
    between: Link
    host_memory: float = 0.0
    overlap: float = 0.9
    slowdown: float = 1.05
    cores: int = 0

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.per_node < 1:
            raise UsageError(f"{self.nodes} nodes of {self.per_node} devices is no machine; both must be 1.")

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.nodes * self.per_node

    @property
    def memory(self) -> float:
        """Bytes that one process may use: on a CPU host the processes share its memory."""
        return self.device.memory / self.per_node if self.cores else self.device.memory

    @property
    def price(self) -> float | None:
        """Money an hour for all of it."""
        return None if self.device.price is None else self.device.price * self.size

    def resized(self, size: int) -> Cluster:
        """The same kind of machine with ``size`` devices: part of a node, or whole nodes."""
        nodes, rest = divmod(size, self.per_node)
        if nodes and not rest:
            return dataclasses.replace(self, nodes=nodes)
        if size < self.per_node:
            return dataclasses.replace(self, nodes=1, per_node=size)
        raise UsageError(
            f"{size} devices are no whole number of nodes of {self.per_node}; give a multiple of "
            f'{self.per_node}, or say it as "NODES x (DEVICES x {self.device.name})".'
        )

    def describe(self) -> str:
        """One line for people."""
        place = f"{self.nodes} nodes of {self.per_node}" if self.nodes > 1 else "1 node"
        return f"{self.size} x {self.device.name} ({place}), {self.memory / GIB:.0f} GiB each"

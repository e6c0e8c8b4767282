"""What ``--on`` says, as a cluster: ``8 x h100``, ``64 x (8 x h100)``, ``4 x cpu``, ``auto``, or a TOML
file."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from weft.core import config
from weft.core.errors import ConfigError, UsageError
from weft.core.hardware import probe
from weft.core.registry import lookup
from weft.parallel.planner.hardware import GIB, Cluster, Device, Link
from weft.parallel.planner.profiles import PROFILES

_TIMES = r"\s*[x×*]\s*"
_NESTED = re.compile(rf"(\d+){_TIMES}\(\s*(\d+){_TIMES}([\w-]+)\s*\)", re.IGNORECASE)
_FLAT = re.compile(rf"(?:(\d+){_TIMES})?([\w-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class _LinkTable:
    """Microseconds, and gigabytes a second in one direction."""

    latency_us: float = 10.0
    bandwidth_gb_s: float = 10.0

    def link(self) -> Link:
        return Link(self.latency_us * 1e-6, self.bandwidth_gb_s * 1e9)


@dataclass(frozen=True)
class _DeviceTable:
    name: str = "device"
    like: str | None = None
    memory_gib: float | None = None
    bandwidth_gb_s: float | None = None
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    fp32_tflops: float | None = None
    matrix_share: float = 0.6
    price_per_hour: float | None = None


@dataclass(frozen=True)
class HardwareFile:
    """A cluster in TOML: nodes, devices a node, the device (or ``like`` a known one), the links."""

    nodes: int = 1
    per_node: int = 8
    host_memory_gib: float = 512.0
    device: _DeviceTable = field(default_factory=_DeviceTable)
    inside: _LinkTable | None = None
    between: _LinkTable | None = None

    def cluster(self, where: str) -> Cluster:
        """ConfigError when neither a known device nor enough figures are given."""
        device, inside, between = self._device(where)
        if self.inside:
            inside = self.inside.link()
        if self.between:
            between = self.between.link()
        memory = self.host_memory_gib * GIB
        return Cluster(where, self.nodes, self.per_node, device, inside, between, memory)

    def _device(self, where: str) -> tuple[Device, Link, Link]:
        table, slow = self.device, _LinkTable().link()
        if table.like is not None:
            profile = lookup(PROFILES, table.like, "device")
            known = profile.device
            changed = {
                "memory": table.memory_gib and table.memory_gib * GIB,
                "bandwidth": table.bandwidth_gb_s and table.bandwidth_gb_s * 1e9,
                "price": table.price_per_hour,
            }
            kept = {name: value for name, value in changed.items() if value is not None}
            return dataclasses.replace(known, **kept), profile.inside, profile.between  # type: ignore[arg-type]
        if not (table.memory_gib and table.bandwidth_gb_s and table.bf16_tflops):
            raise ConfigError(
                f"{where}: [device] needs memory_gib, bandwidth_gb_s and bf16_tflops, or like = one of "
                f"{', '.join(PROFILES)}."
            )
        rates = [("bf16", table.bf16_tflops), ("fp32", table.fp32_tflops), ("fp8", table.fp8_tflops)]
        return (
            Device(
                table.name,
                table.memory_gib * GIB,
                table.bandwidth_gb_s * 1e9,
                tuple((name, rate * 1e12) for name, rate in rates if rate),
                matrix_share=table.matrix_share,
                price=table.price_per_hour,
                source=where,
            ),
            slow,
            slow,
        )


def clusters_on(text: str) -> list[Cluster]:
    """What ``--on`` leaves open: for ``auto`` on a host without GPUs, 1 process to one a core."""
    if text.strip().lower() != "auto":
        return [cluster_on(text)]
    found = this_machine()
    if not found.cores:
        return [found]
    return [
        this_machine(processes) for processes in range(1, found.cores + 1) if found.cores % processes == 0
    ]


def cluster_on(text: str) -> Cluster:
    """The cluster that ``--on`` names. UsageError says what could not be read."""
    text = text.strip()
    if text.lower() == "auto":
        return this_machine()
    if text.endswith(".toml"):
        return config.load(HardwareFile, Path(text)).cluster(text)
    nested, flat = _NESTED.fullmatch(text), _FLAT.fullmatch(text)
    if nested:
        nodes, per_node, name = int(nested[1]), int(nested[2]), nested[3].lower()
        profile = lookup(PROFILES, name, "device")
        return profile.cluster(_positive(nodes, text), _positive(per_node, text))
    if flat:
        count, name = _positive(int(flat[1] or 1), text), flat[2].lower()
        if name == "cpu":
            return this_machine(count)
        profile = lookup(PROFILES, name, "device")
        return profile.cluster(1, profile.per_node).resized(count)
    raise UsageError(
        f'--on {text!r} cannot be read; write for instance "8 x h100", "64 x (8 x h100)", "4 x cpu", auto, '
        "or the name of a hardware file that ends in .toml."
    )


def this_machine(processes: int | None = None) -> Cluster:
    """This host: its GPUs where it has known ones, else ``processes`` that share its cores and memory."""
    if processes is None and torch.cuda.is_available():
        return _gpus_here()
    processes, machine = processes or 1, probe()
    vector = set(machine.instruction_sets)
    # Guesses of the order of magnitude, until the machine is calibrated.
    fp32 = machine.cores * (1.2e11 if "avx512f" in vector else 5e10)
    bf16 = machine.cores * 7e11 if "amx_bf16" in vector else fp32 * (2 if "avx512_bf16" in vector else 0.5)
    each = min(processes, machine.cores)
    device = Device(
        "cpu",
        machine.memory_bytes,
        12e9 * machine.cores / each,
        (("bf16", bf16 / each), ("fp32", fp32 / each)),
        kind="cpu",
        matrix_share=0.5,
        launch=3e-5,
        runtime=0.45 * GIB,
        source=f"a guess for {machine.describe()}; weft plan --calibrate measures",
    )
    local = Link(1.5e-4, 1.5e9)
    return Cluster(
        f"{processes} x cpu", 1, processes, device, local, local, machine.memory_bytes,
        overlap=0.0, slowdown=1.0, cores=machine.cores,
    )  # fmt: skip


def _gpus_here() -> Cluster:
    name = torch.cuda.get_device_name(0).lower().replace(" ", "")
    known = [short for short in PROFILES if short.split("-")[0] in name]
    if not known:
        raise UsageError(
            f"The GPU {torch.cuda.get_device_name(0)!r} has no profile; describe it in a hardware file "
            "(--on FILE.toml)."
        )
    count = torch.cuda.device_count()
    memory = float(torch.cuda.get_device_properties(0).total_memory)
    # Of the sizes of one device, the one whose memory is nearest.
    short = min(known, key=lambda k: abs(PROFILES[k].device.memory - memory))
    cluster = PROFILES[short].cluster(1, count)
    return dataclasses.replace(cluster, device=dataclasses.replace(cluster.device, memory=memory))


def _positive(number: int, text: str) -> int:
    if number < 1:
        raise UsageError(f"--on {text!r} names no device; the number must be at least 1.")
    return number

"""Which kind of arithmetic this machine does fastest, and how fast: a probe and a short measurement."""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass

import torch

from weft.core.errors import ResourceError
from weft.core.hardware import probe, usable_cores
from weft.ops.float8 import CAPABILITY, DTYPE, has_float8


@dataclass(frozen=True)
class Arithmetic:
    """``dtype`` of matrix work, ``peak`` its measured matrix rate in FLOP/s, ``reason`` for people.

    ``float8``: the blocks' products run in fp8, all else in ``dtype``.
    """

    dtype: torch.dtype
    peak: float
    reason: str
    float8: bool = False

    @property
    def name(self) -> str:
        """fp32, bf16 or fp8."""
        return "fp8" if self.float8 else {torch.float32: "fp32", torch.bfloat16: "bf16"}[self.dtype]


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes a GPU when there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ResourceError(f"The device {name!r} cannot be used here; try train.device=cpu.") from error
    return device


def share_cores(processes: int = 1) -> None:
    """Give this process its share of the host's cores, and no more than OMP_NUM_THREADS where it is alone.

    Of several processes the variable says nothing: torchrun sets it to 1 for all that it starts.
    """
    share = max(1, usable_cores() // processes)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    alone = processes == 1 and os.environ.get("LOCAL_WORLD_SIZE", "1") == "1"
    if alone and asked.isdigit() and int(asked):
        share = min(share, int(asked))
    torch.set_num_threads(share)


def choose(device: torch.device, wish: str = "auto") -> Arithmetic:
    """Measure fp32 and, where the processor has it in hardware, bf16; take the faster unless told.

    fp8 is only taken where it is asked for, because it rounds more. ResourceError on a GPU without it.
    """
    if wish == "fp8":
        return _float8(device)
    fp32 = matrix_rate(device, torch.float32)
    if wish == "fp32" or (wish == "auto" and not has_bfloat16(device)):
        why = "asked for" if wish == "fp32" else "this processor has no bf16 instructions"
        return Arithmetic(torch.float32, fp32, f"fp32, {fp32 / 1e9:,.0f} GFLOP/s measured: {why}")
    bf16 = matrix_rate(device, torch.bfloat16)
    figures = f"bf16 {bf16 / 1e9:,.0f} GFLOP/s, fp32 {fp32 / 1e9:,.0f} GFLOP/s measured"
    if wish == "bf16" or bf16 > 1.2 * fp32:
        return Arithmetic(torch.bfloat16, bf16, f"bf16 matrix work on fp32 masters: {figures}")
    return Arithmetic(torch.float32, fp32, f"fp32: {figures}")


def has_bfloat16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware; a CPU without instructions for them is far slower in bf16."""
    return device.type != "cpu" or _instructions()


@functools.cache
def _instructions() -> bool:
    return bool({"avx512_bf16", "amx_bf16"} & set(probe().instruction_sets))


def _float8(device: torch.device) -> Arithmetic:
    if device.type == "cuda" and not has_float8(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise ResourceError(
            f"This GPU (compute capability {major}.{minor}) has no fp8; it begins with "
            f"{'.'.join(map(str, CAPABILITY))} (Ada, Hopper). Use train.arithmetic=bf16."
        )
    rate = matrix_rate(device, DTYPE)
    why = f"fp8 products in bf16 work on fp32 masters: {rate / 1e9:,.0f} GFLOP/s measured"
    if not has_float8(device):
        why += "; this processor makes them in software, to try them out, not to be fast"
    return Arithmetic(torch.bfloat16, rate, why, float8=True)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Best FLOP/s of square matrix products seen within about ``seconds``."""
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    one = torch.ones((), device=device)
    best, spent = 0.0, 0.0
    while spent < seconds:
        started = time.perf_counter()
        if dtype == DTYPE:
            torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16)
        else:
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        best, spent = max(best, 2 * size**3 / elapsed), spent + elapsed
    return best

"""The native kernels: compiled once per machine with its own compiler, loaded through ctypes.

They are an acceleration, never a need: without a compiler, on another processor, under ``torch.compile``
or with ``WEFT_KERNELS=off`` every operation has its plain PyTorch twin, and ``kernels().status`` says which
is in use. ``WEFT_KERNELS=pointwise`` or ``attention`` switches one library on alone, for measurements.
A plain C interface keeps the build at a few seconds and free of PyTorch's own headers and ABI.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weft.core.files import write_bytes_atomic
from weft.core.hardware import probe

_SOURCES = Path(__file__).parent / "native"
# Associative sums let the compiler vectorise reductions. Not -ffast-math: NaN must stay NaN, and that flag
# would switch denormal numbers off in the whole process.
_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-w"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)


@dataclass(frozen=True)
class Kernels:
    """The loaded libraries (None where this machine has none) and a word about them."""

    pointwise: ctypes.CDLL | None
    attention: ctypes.CDLL | None
    status: str


@functools.cache
def kernels() -> Kernels:
    """Compile what this machine can run (about ten seconds, once; then cached on disk) and load it."""
    wish = os.environ.get("WEFT_KERNELS", "on").lower()
    if wish in ("off", "0"):
        return Kernels(None, None, "off (WEFT_KERNELS)")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        return Kernels(None, None, "off (no C++ compiler found; install g++ for faster training)")
    # torch's OpenMP runtime is already in the process under the same name, so both share one thread pool.
    torch.get_num_threads()
    able = {"pointwise"}
    if {"avx512f", "avx512_bf16"} <= set(probe().instruction_sets):
        able.add("attention")
    if wish in able:
        able = {wish}
    try:
        pointwise = _load(compiler, "pointwise") if "pointwise" in able else None
        attention = _load(compiler, "attention") if "attention" in able else None
    except (OSError, subprocess.CalledProcessError) as error:
        return Kernels(None, None, f"off (they do not build here: {_last_line(error)})")
    return Kernels(pointwise, attention, f"on ({' and '.join(sorted(able))})")


def usable(x: Tensor) -> bool:
    """Whether native code may take ``x``: on a CPU, and not while torch.compile traces."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def suffix(x: Tensor) -> str | None:
    """The kernels' name for the dtype of ``x``, or None if they cannot take it."""
    if not usable(x):
        return None
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}.get(x.dtype)


def pointwise(x: Tensor) -> tuple[ctypes.CDLL, str] | None:
    """The row-wise library and the suffix for ``x``, or None when the plain path must serve."""
    name = suffix(x)
    library = kernels().pointwise if name else None
    return (library, name) if library is not None and name is not None else None


def address(x: Tensor | None) -> ctypes.c_void_p:
    """The pointer of a contiguous tensor."""
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def whole(*numbers: int) -> list[ctypes.c_long]:
    """C longs."""
    return [ctypes.c_long(n) for n in numbers]


def _load(compiler: str, name: str) -> ctypes.CDLL:
    sources = [_SOURCES / "numbers.h", _SOURCES / f"{name}.cpp"]
    machine = probe()
    key = hashlib.sha256(
        repr((compiler, _FLAGS, platform.platform(), machine.processor, machine.instruction_sets)).encode()
        + b"".join(source.read_bytes() for source in sources)
    ).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weft" / "kernels"
    library = cache / f"{name}-{key}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        built = cache / f".{name}-{key}.{os.getpid()}.so"
        try:
            command = [compiler, *_FLAGS, str(sources[-1]), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            write_bytes_atomic(library, built.read_bytes())
        finally:
            built.unlink(missing_ok=True)
    return ctypes.CDLL(str(library))


def _last_line(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    lines = [line for line in text.strip().splitlines() if "error" in line] or text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

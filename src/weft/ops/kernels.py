"""The native kernels (see :mod:`weft.core.native`), and which of them are in use.

Without a compiler, on another processor, under ``torch.compile`` or with ``WEFT_KERNELS=off`` every operation
has its plain PyTorch twin, and ``kernels().status`` says which is in use. ``WEFT_KERNELS=pointwise`` or
``attention`` switches one library on alone, for measurements.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.core.hardware import probe
from weft.core.native import BASE_FLAGS, BuildError, load

_SOURCES = Path(__file__).parent / "native"
# Associative sums let the compiler vectorise reductions. Not -ffast-math: NaN must stay NaN, and that flag
# would switch denormal numbers off in the whole process.
_FLAGS = (
    *BASE_FLAGS,
    *("-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
_WIDE = ("-mprefer-vector-width=512",) if "avx512f" in probe().instruction_sets else ()
_ORDERED_FLAGS = (*BASE_FLAGS, "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_log = logging.getLogger("weft.ops")

_SERVING_HEADERS = {"paged": ("company.h", "paged_pairs.h"), "rows": ("rows_tiles.h",)}


@dataclass(frozen=True)
class Kernels:
    """The loaded libraries (None where this machine has none) and a word about them."""

    pointwise: ctypes.CDLL | None
    attention: ctypes.CDLL | None
    status: str


class _Silent:
    """A library whose functions do nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


_traced: list[Kernels] = []


@contextlib.contextmanager
def shapes_only(pointwise: bool = True, attention: bool = True) -> Iterator[None]:
    """Within it the named libraries are stand-ins that do nothing and take tensors without memory.

    So a step can be traced on fake tensors, and what autograd keeps is what a real step keeps.
    """
    silent: Any = _Silent()
    _traced.append(Kernels(silent if pointwise else None, silent if attention else None, "traced"))
    try:
        yield
    finally:
        _traced.pop()


def kernels() -> Kernels:
    """The libraries of this machine, or the stand-ins of :func:`shapes_only`."""
    return _traced[-1] if _traced else _compiled()


@functools.cache
def _compiled() -> Kernels:
    """Compile what this machine can run (about ten seconds, once; then cached on disk) and load it."""
    wish = os.environ.get("WEFT_KERNELS", "on").lower()
    if wish in ("off", "0"):
        return Kernels(None, None, "off (WEFT_KERNELS)")
    # torch's OpenMP runtime is already in the process under the same name, so both share one thread pool.
    torch.get_num_threads()
    able = {"pointwise"}
    if {"avx512f", "avx512_bf16"} <= set(probe().instruction_sets):
        able.add("attention")
    if wish in able:
        able = {wish}
    try:
        pointwise = _library("pointwise") if "pointwise" in able else None
        attention = _library("attention") if "attention" in able else None
    except BuildError as error:
        return Kernels(None, None, f"off ({error})")
    return Kernels(pointwise, attention, f"on ({' and '.join(sorted(able))})")


@functools.cache
def serving(name: str) -> ctypes.CDLL | None:
    """A library that only inference uses (``paged``, ``rows``), compiled when it is first asked for.

    Sums in them keep the order in which they are written, so that a row's result depends on that row alone.
    """
    if os.environ.get("WEFT_KERNELS", "on").lower() not in ("on", "1", name):
        return None
    torch.get_num_threads()
    try:
        headers = ("numbers.h", "amx.h", *_SERVING_HEADERS.get(name, ()))
        return load([_SOURCES / file for file in (*headers, f"{name}.cpp")], _ORDERED_FLAGS)
    except BuildError as error:
        _log.warning("Inference is slow here, as its native library %r is not in use: %s.", name, error)
        return None


@functools.cache
def decoder() -> ctypes.CDLL | None:
    """The library of whole decoder steps (:mod:`weft.ops.step`), or None without a compiler."""
    if os.environ.get("WEFT_KERNELS", "on").lower() not in ("on", "1", "decoder"):
        return None
    torch.get_num_threads()
    # Sums keep their order and products their rounding: a row must not depend on its neighbours.
    flags = (*BASE_FLAGS, "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", *_WIDE)
    headers = ("numbers.h", "amx.h", "company.h", "packed.h", "tiles.h", "product.h")
    try:
        return load([_SOURCES / name for name in (*headers, "decoder.cpp")], flags)
    except BuildError as error:
        _log.warning("Inference is slow here, as its native library 'decoder' is not in use: %s.", error)
        return None


# A test that compiles anew clears what was kept.
kernels.cache_clear = _compiled.cache_clear  # type: ignore[attr-defined]


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
    """The pointer of a contiguous tensor, which lives as long as its pointer does; none while only traced.

    In ``kernel(*map(address, (x.contiguous(), y)))`` the copy of x would else be freed before the call.
    """
    pointer = ctypes.c_void_p(None if x is None or _traced else x.data_ptr())
    pointer.tensor = x  # type: ignore[attr-defined]
    return pointer


def whole(*numbers: int) -> list[ctypes.c_long]:
    """C longs."""
    return [ctypes.c_long(n) for n in numbers]


def _library(name: str) -> ctypes.CDLL:
    return load([_SOURCES / "numbers.h", _SOURCES / f"{name}.cpp"], _FLAGS)

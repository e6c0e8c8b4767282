"""Native libraries: compiled once per machine with its own compiler, cached on disk, loaded through ctypes.

They are an acceleration, never a need: who loads one has a plain twin for machines without a compiler.
A plain C interface keeps a build at a few seconds and free of other projects' headers and ABI.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from weft.core.errors import ResourceError
from weft.core.files import disk_errors, write_bytes_atomic
from weft.core.hardware import probe

BASE_FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-w")

# Threads that meet an empty cache together would each compile.
_building = threading.Lock()


class BuildError(Exception):
    """A library cannot be built or loaded here; the text says why in a few words."""


def load(sources: Sequence[Path], flags: Sequence[str] = BASE_FLAGS) -> ctypes.CDLL:
    """Compile the last of ``sources`` (the others are headers it includes) unless that was done, and load it.

    Raises BuildError without a compiler, or when the source does not build on this machine.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        raise BuildError("no C++ compiler found; install g++ for more speed")
    try:
        with _building:
            library = _library(compiler, sources, flags)
            if not library.exists():
                _build(compiler, sources[-1], flags, library)
            try:
                return ctypes.CDLL(str(library))
            except OSError:  # what lies there was cut short or is of another machine
                _build(compiler, sources[-1], flags, library)
                return ctypes.CDLL(str(library))
    except (OSError, ResourceError, subprocess.CalledProcessError) as error:
        raise BuildError(f"they do not build here: {_last_line(error)}") from error


def _library(compiler: str, sources: Sequence[Path], flags: Sequence[str]) -> Path:
    machine = probe()
    key = hashlib.sha256(
        repr((compiler, flags, platform.platform(), machine.processor, machine.instruction_sets)).encode()
        + b"".join(source.read_bytes() for source in sources)
    ).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weft" / "kernels"
    return cache / f"{sources[-1].stem}-{key}.so"


def _build(compiler: str, source: Path, flags: Sequence[str], library: Path) -> None:
    with disk_errors(library):
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=library.parent) as folder:
            built = Path(folder) / library.name
            command = [compiler, *flags, str(source), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            write_bytes_atomic(library, built.read_bytes())


def _last_line(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    lines = [line for line in text.strip().splitlines() if "error" in line] or text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

"""The native libraries build for processors that are not this one."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

import weft.ops.kernels as kernels
from weft.ops.kernels import _FLAGS, _ORDERED_FLAGS

SOURCES = Path(kernels.__file__).parent / "native"
PROCESSORS = ("x86-64-v2", "haswell", "skylake-avx512", "sapphirerapids")
BUILDS = {"pointwise": _FLAGS, "paged": _ORDERED_FLAGS, "rows": _ORDERED_FLAGS, "draw": _ORDERED_FLAGS}


@pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on an x86-64 processor"
)
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("name", [*BUILDS, "decoder"])
def test_it_builds(name, processor):
    flags = [flag for flag in BUILDS.get(name, _ORDERED_FLAGS) if not flag.startswith("-march")]
    command = ["g++", *flags, f"-march={processor}", "-fsyntax-only", str(SOURCES / f"{name}.cpp")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]

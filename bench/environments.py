"""The peers' environments: one virtual environment each, made from the package registry on first use."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
DEFAULT = Path.home() / ".cache" / "weft-bench"
TORCH = "torch==2.13.0"
_PROBE = {
    "huggingface": "import torch, transformers, accelerate",
    "litgpt": "import torch, litgpt.pretrain, requests",
    "llamacpp": "import llama_cpp",
    "vllm": "import torch, vllm",
    "datatrove": "import datatrove.pipeline.tokens, spacy, jieba, xxhash, orjson",
}

_REMOVED = {"vllm": ("torchvision", "torchaudio", "torchcodec")}
"""What a peer's package asks for and text does not need; beside a CPU build of torch it breaks imports."""


_BUILT = {"llamacpp": ("GGML_AVX", "GGML_AVX2", "GGML_FMA", "GGML_F16C", "GGML_BMI2")}
"""Peers that are built from source, and what such a build always has."""


def _options(peer: str) -> dict[str, str]:
    """Environment of a build. llama.cpp's kernels for AMX end in a fault on the machines tried, so where the
    processor has AMX the build names what else it has instead of taking all; elsewhere it takes all."""
    about = Path("/proc/cpuinfo")
    flags = about.read_text().partition("\nflags")[2].partition("\n")[0] if about.exists() else ""
    if peer not in _BUILT or "amx_tile" not in flags:
        return {}
    wide = [f"GGML_{name.upper()}" for name in ("avx512", "avx512_vbmi", "avx512_vnni", "avx512_bf16")]
    found = [name for name in wide if name[5:].lower() in flags or name == "GGML_AVX512"]
    return {
        "CMAKE_ARGS": " ".join(["-DGGML_NATIVE=OFF", *(f"-D{name}=ON" for name in (*_BUILT[peer], *found))])
    }


def python_of(peer: str, folder: Path) -> str:
    """The Python of a peer's environment in ``folder/peer``, made there first when it does not work.

    Where the peer needs torch it goes in first, so that nothing the peer asks for can choose another build.
    Exits with one sentence when the build is for CUDA.
    """
    home = folder.expanduser().absolute() / peer
    python = home / "bin" / "python"
    needs_torch = "import torch" in _PROBE[peer]
    if not _works(python, peer):
        print(f"making the environment {home} ...", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=home.exists())
        if needs_torch:
            _pip(python, "install", TORCH)
        options = _options(peer)
        fresh = ["--no-cache-dir"] if options else []  # a wheel of an earlier build may lie there
        _pip(python, "install", *fresh, "-r", str(PEERS / f"constraints-{peer}.txt"), **options)
        if peer in _REMOVED:
            _pip(python, "uninstall", "--yes", *_REMOVED[peer])
        if not _works(python, peer):
            sys.exit(f"The environment {home} was made, but `{_PROBE[peer]}` fails there; see its message.")
    if not needs_torch:
        return str(python)
    probe = [str(python), "-c", "import torch; print(torch.version.cuda or '')"]
    if build := subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip():
        sys.exit(f"{home} has torch for CUDA {build}; install a CPU build of {TORCH} there and start again.")
    return str(python)


def _works(python: Path, peer: str) -> bool:
    if not python.exists():
        return False
    return subprocess.run([str(python), "-c", _PROBE[peer]], capture_output=True, check=False).returncode == 0


def _pip(python: Path, verb: str, *arguments: str, **environment: str) -> None:
    command = [str(python), "-m", "pip", verb, "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False, env=os.environ | environment).returncode:
        sys.exit(
            f"pip could not {verb} {arguments[-1]}; its message is above. Check the network and the index."
        )

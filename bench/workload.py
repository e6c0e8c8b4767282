"""What all systems are given: the shape, the first weights, the rows; and how their work is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import ByteLevelBPETokenizer

HERE = Path(__file__).parent
CONTEXT = 512

SHAPE: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
"""The 34M Llama, in Hugging Face's names."""

KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
"""GLIBC_TUNABLES that stop the allocator from handing memory back between steps."""


def flops_per_token(shape: dict[str, Any], context: int) -> float:
    """Matrix floating-point operations of one training step, per token.

    One multiply-add forward and two backward for each weight of a matrix, two operations each: q, k, v, o,
    gate, up, down and the output matrix (the input embedding is a look-up). Attention's two products cost
    2 * 2 * context * heads * head_dim forward and twice that backward, halved because a causal position sees
    half the row on average. Norms, rotary positions, softmax and the optimiser are not counted, and nothing
    that a system computes twice (recomputation) is counted twice.
    """
    hidden, width = shape["hidden_size"], shape["num_attention_heads"] * shape["head_dim"]
    groups = shape["num_key_value_heads"] * shape["head_dim"]
    block = hidden * (2 * width + 2 * groups) + 3 * hidden * shape["intermediate_size"]
    weights = shape["num_hidden_layers"] * block + shape["vocab_size"] * hidden
    return 6.0 * weights + 6.0 * shape["num_hidden_layers"] * width * context


def standard_library_rows(rows: int, context: int, vocab_size: int) -> npt.NDArray[np.uint16]:
    """[rows, context + 1] tokens of the standard library's source, by a byte-level BPE trained on it.

    Row r + 1 begins with the token that row r ends with, as in a stream.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    texts, size = [], 0
    for file in sorted(root.glob("*.py")):
        texts.append(file.read_text(encoding="utf-8", errors="replace"))
        size += len(texts[-1])
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    needed = rows * context + 1
    stream: list[int] = []
    while len(stream) < needed:
        for text in texts:
            stream += tokenizer.encode(text).ids
            if len(stream) >= needed:
                break
    return stream_rows(np.asarray(stream[:needed]), context)


def stream_rows(stream: npt.NDArray[np.integer], context: int) -> npt.NDArray[np.uint16]:
    """A stream of tokens as rows [n, context + 1] that overlap by one token; the rest is left out."""
    count = (len(stream) - 1) // context
    index = np.arange(count)[:, None] * context + np.arange(context + 1)[None, :]
    return np.asarray(stream)[index].astype(np.uint16)


def initial_weights(python: str, shape: dict[str, Any], folder: Path) -> Path:
    """The first weights, drawn by transformers with ``python``, as a Hugging Face folder."""
    shape_file = folder.with_suffix(".json")
    shape_file.write_text(json.dumps(shape), encoding="utf-8")
    run([python, str(HERE / "peers" / "initial_weights.py"), str(shape_file), str(folder)])
    return folder


def matrix_peak(threads: int) -> float:
    """Best bf16 matrix product of this machine now, in FLOP/s, measured in a process of its own."""
    code = HERE / "matrix_peak.py"
    return float(run([sys.executable, str(code), str(threads)]).strip().splitlines()[-1])


def train(python: str, runner: Path, job: Any, scratch: Path, *, keep_memory: bool = False) -> dict[str, Any]:
    """Run one job of peers/job.py in a process of its own and return its result."""
    job_file, result_file = scratch / "job.json", scratch / "result.json"
    job.write(job_file)
    run([python, str(runner), str(job_file), str(result_file)], keep_memory=keep_memory)
    result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
    return result


def run(command: list[str], *, keep_memory: bool = False) -> str:
    """Run a command offline and return what it printed; exits with the end of its messages when it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if keep_memory:
        environment["GLIBC_TUNABLES"] = KEEP_MEMORY
    with tempfile.TemporaryFile("w+", encoding="utf-8") as messages:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=messages, text=True, check=False
        )
        if done.returncode:
            messages.seek(0)
            tail = "\n".join((done.stdout + messages.read()).splitlines()[-25:])
            sys.exit(f"{' '.join(command)} failed with status {done.returncode}:\n{tail}")
    return done.stdout

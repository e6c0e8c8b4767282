"""What bench/decode_gpu.py measures Weft against: transformers' `generate`, and nano-vllm."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from decode_gpu_models import SHAPES, made, prompts_of, wait
from decode_models import tokenizer
from weft.checkpoint.config_json import write_config
from weft.checkpoint.huggingface import save_model
from weft.models.names import foreign

HERE = Path(__file__).parent


def generate(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """transformers on the same weights and the same prompts as Weft's last case."""
    import transformers

    device, config, count = torch.device(given.device), SHAPES[name], max(given.sequences)
    table = write_config(config, "bfloat16", {})
    kind = transformers.AutoConfig.for_model(**{k: v for k, v in table.items() if k != "architectures"})
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            kind, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    ours = made(name, device)
    state = {foreign(key): value for key, value in ours.named_parameters()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.eval()
    model.generation_config.pad_token_id = 0
    rates = []
    for repeat in range(given.rounds + 1):
        prompts = torch.tensor(
            prompts_of(config, [given.prompt] * count, 100 * repeat + count), device=device
        )
        wait(device)
        began = time.perf_counter()
        out = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            max_new_tokens=given.new,
            min_new_tokens=given.new,
        )
        wait(device)
        rates.append(count * given.new / (time.perf_counter() - began))
    return {
        "rates": rates[1:],
        "tokens": out[:, given.prompt :].tolist(),
        "version": transformers.__version__,
    }


def nanovllm(name: str, prompts: list[list[int]], news: list[int]) -> subprocess.CompletedProcess[str]:
    """nano-vllm's run of a workload, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        model = Path(folder) / "model"
        save_model(model, made(name, torch.device("cpu")), tokenizer(SHAPES[name].vocab_size))
        job = json.dumps({"model": str(model), "prompts": prompts, "new": news})
        script = [sys.executable, str(HERE / "peers" / "nanovllm_workload.py")]
        return subprocess.run(script, input=job, capture_output=True, text=True)

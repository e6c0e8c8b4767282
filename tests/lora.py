"""LoRA adapters of the tiny decoder, as PEFT writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

TARGETS = {
    "model.layers.{}.self_attn.q_proj": ("attention.q", 32, 32),
    "model.layers.{}.self_attn.v_proj": ("attention.v", 32, 16),
    "model.layers.{}.mlp.down_proj": ("feed_forward.down", 64, 32),
}


def write(folder: Path, seed: int, rank: int = 4, alpha: int = 8, **changes: Any) -> dict[str, Tensor]:
    """A PEFT adapter of the tiny decoder."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for pattern, (_, inputs, outputs) in TARGETS.items():
        for layer in range(2):
            key = f"base_model.model.{pattern.format(layer)}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.2
            tensors[f"{key}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.2
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"], **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors

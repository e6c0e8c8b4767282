"""LoRA adapters (arXiv:2106.09685) as stock PEFT folders: read, written, and merged into a model.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors``, which ``peft`` opens as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.checkpoint.safe_folder import inside, read_json, refuse_pickles
from weft.core.errors import CheckpointError
from weft.core.files import atomic_directory, share
from weft.models import Decoder
from weft.models.layers import Linear
from weft.models.names import foreign
from weft.ops.linear import linear

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_MUST: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
}
"""What an adapter's configuration may say about what is not done here."""


@dataclass(frozen=True)
class LowRank:
    """Adds ``scale * x A^T B^T`` to the product of one matrix; A [R, in], B [out, R], R the rank."""

    a: Tensor
    b: Tensor
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in the dtype of ``x``."""
        return linear(linear(x, self.a, None), self.b, None) * self.scale


def read_adapter(folder: Path, model: Decoder, dtype: torch.dtype | None = None) -> dict[str, LowRank]:
    """The matrices by the names that the decoder's layers have, in ``dtype`` (None: that of the layers).

    CheckpointError for an adapter that is damaged, of another model, or of a kind that is not supported.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"There is no adapter at {folder}; give a folder with an {CONFIG}.")
    refuse_pickles(folder)
    config = read_json(folder, CONFIG)
    for key, allowed in _MUST.items():
        if config.get(key) not in allowed:
            raise CheckpointError(
                f"{folder} is an adapter with {key} = {config[key]!r}, which is not supported."
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise CheckpointError(f"{folder / CONFIG} gives no rank r and lora_alpha; copy the adapter again.")
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    ours = {
        foreign(f"{name}.weight").removesuffix(".weight"): (name, module)
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name != "output"
    }
    pairs = _pairs(folder)
    found: dict[str, LowRank] = {}
    for key, pair in pairs.items():
        if key not in ours or set(pair) != {"A", "B"}:
            raise CheckpointError(
                f"{folder} holds {key}, which is not a matrix of this model with its A and B."
            )
        name, module = ours[key]
        want = ((rank, module.in_features), (module.out_features, rank))
        if (pair["A"].shape, pair["B"].shape) != want:
            raise CheckpointError(
                f"{folder} holds A {tuple(pair['A'].shape)} and B {tuple(pair['B'].shape)} for {key}, but "
                f"this model needs {want[0]} and {want[1]}: it is an adapter of another model."
            )
        a, b = (pair[letter].to(module.weight.device, dtype or module.weight.dtype) for letter in "AB")
        found[name] = LowRank(a, b, scale)
    return found


def _pairs(folder: Path) -> dict[str, dict[str, Tensor]]:
    """A and B by Hugging Face's name of their matrix."""
    try:
        tensors = load_file(inside(folder, WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} cannot be read ({error}); copy the adapter again."
        ) from None
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{folder / WEIGHTS} holds {key}, which is no sound matrix of a LoRA adapter."
            )
        pairs.setdefault(match.group(1), {})[match.group(2)] = tensor
    if not pairs:
        raise CheckpointError(f"{folder / WEIGHTS} holds no matrices; copy the adapter again.")
    return pairs


def write_adapter(
    folder: Path, parts: Mapping[str, tuple[Tensor, Tensor]], rank: int, alpha: float, base: str
) -> None:
    """Write A [R, in] and B [out, R] of the matrices ``parts`` (our names) as a PEFT folder, whole or absent.

    ``base`` names the model that they belong to.
    """
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in parts.items():
        key = "base_model.model." + foreign(f"{name}.weight").removesuffix(".weight")
        tensors[f"{key}.lora_A.weight"] = a.detach().float().cpu().contiguous()
        tensors[f"{key}.lora_B.weight"] = b.detach().float().cpu().contiguous()
    table = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({foreign(f"{name}.weight").split(".")[-2] for name in parts}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
    }
    with atomic_directory(folder) as partial:
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        share(partial / WEIGHTS)
        (partial / CONFIG).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def merge(model: Decoder, folder: Path) -> None:
    """Add the adapter in ``folder`` to the matrices of ``model``, in place and in fp32."""
    for name, low_rank in read_adapter(folder, model, torch.float32).items():
        weight = model.get_parameter(f"{name}.weight")
        weight.copy_(weight.float() + low_rank.scale * (low_rank.b @ low_rank.a))

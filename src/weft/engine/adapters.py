"""LoRA adapters (arXiv:2106.09685): small matrices beside the model's, one for each request if need be.

Read are stock PEFT folders: ``adapter_config.json`` and ``adapter_model.safetensors``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from weft.checkpoint.safe_folder import inside, read_json, refuse_pickles
from weft.core.errors import CheckpointError, UsageError
from weft.core.registry import lookup
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


class Adapters:
    """The adapters of one decoder of plain layers, by name; they come and go while it serves."""

    def __init__(self, model: Decoder):
        self.model = model
        self._loaded: dict[str, dict[str, LowRank]] = {}
        self._rows: list[tuple[slice, str]] = []
        for name, module in model.named_modules():
            if isinstance(module, Linear) and name != "output":
                module.register_forward_hook(self._hook(name))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that are loaded."""
        return tuple(self._loaded)

    def load(self, name: str, folder: str | Path) -> None:
        """Read the PEFT adapter in ``folder``.

        Raises UsageError for a name that is in use, CheckpointError for an adapter that is damaged, of
        another model, or of a kind that is not supported.
        """
        if name in self._loaded:
            raise UsageError(f"An adapter named {name!r} is loaded already; unload it first.")
        self._loaded[name] = _read(Path(folder), self.model)

    def unload(self, name: str) -> None:
        """Forget an adapter (see :meth:`weft.engine.LLM.unload_adapter`). UsageError for an unknown name."""
        lookup(self._loaded, name, "adapter")
        del self._loaded[name]

    def check(self, name: str) -> None:
        """UsageError for an adapter that is not loaded."""
        lookup(self._loaded, name, "adapter")

    @contextlib.contextmanager
    def on(self, rows: list[tuple[slice, str]]) -> Iterator[None]:
        """Within it these rows of the step (dimension 1 of [1, N, E]) go through these adapters."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = []

    def _hook(self, name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for rows, adapter in self._rows:
                low_rank = self._loaded[adapter].get(name)
                if low_rank is not None:
                    output[:, rows] += low_rank(inputs[0][:, rows])

        return add


def _read(folder: Path, model: Decoder) -> dict[str, LowRank]:
    """The matrices by the names that the decoder's layers have."""
    if not folder.is_dir():
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
        a, b = (pair[letter].to(module.weight.device, module.weight.dtype) for letter in "AB")
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

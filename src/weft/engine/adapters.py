"""LoRA adapters (arXiv:2106.09685): small matrices beside the model's, one for each request if need be.

Read are stock PEFT folders: ``adapter_config.json`` and ``adapter_model.safetensors``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from weft.checkpoint.peft import LowRank, read_adapter
from weft.core.errors import UsageError
from weft.core.registry import lookup
from weft.models import Decoder
from weft.models.layers import Linear


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

        Raises UsageError for a name that is in use or none, CheckpointError for an adapter that is damaged,
        of another model, or of a kind that is not supported.
        """
        if not isinstance(name, str) or not name:
            raise UsageError(f"An adapter cannot be named {name!r}; give it a text that is not empty.")
        if name in self._loaded:
            raise UsageError(f"An adapter named {name!r} is loaded already; unload it first.")
        self._loaded[name] = read_adapter(Path(folder), self.model)

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

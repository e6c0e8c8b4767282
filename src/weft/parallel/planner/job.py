"""What is to be trained: the planner's view of a run, free of the trainer's run file."""

from __future__ import annotations

from dataclasses import dataclass

from weft.core.errors import ConfigError
from weft.models.config import DecoderConfig

WORK_BYTES = {"bf16": 2, "fp8": 2, "fp32": 4}
"""Bytes of an activation. Matrix products in fp8 still keep their inputs in bf16."""
MASTER_BYTES = 4
"""Weights, gradients and optimiser state are fp32, whatever the matrices work in."""


@dataclass(frozen=True)
class Job:
    """One training run.

    ``rows``: rows of a step over all ranks; ``length``: positions a row; ``document``: mean positions of a
    packed document, where the attention kernel skips what lies before one (by default the whole row);
    ``micro_rows``: rows of a micro-batch of one rank where the user fixed them.
    """

    config: DecoderConfig
    rows: int
    length: int
    dtype: str = "bf16"
    optimizer: str = "adamw"
    steps: int | None = None
    micro_rows: int | None = None
    document: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in WORK_BYTES:
            raise ConfigError(f"arithmetic = {self.dtype!r} is not one of {', '.join(WORK_BYTES)}.")
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"optimizer.name = {self.optimizer!r} is not one of adamw, muon.")
        for name in ("rows", "length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} of the planned step must be at least 1.")

    @property
    def tokens(self) -> int:
        """Positions of a step over all ranks."""
        return self.rows * self.length

    @property
    def work_bytes(self) -> int:
        """Bytes of an activation."""
        return WORK_BYTES[self.dtype]

    @property
    def flops(self) -> float:
        """Matrix operations of one step that the model itself needs: recomputation is not counted."""
        return self.tokens * self.config.flops_per_token(self.length)

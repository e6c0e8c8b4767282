"""The plan: how one training step is spread over the processes. Frozen, and checked before anything starts.

Sizes multiply to the number of processes, from the outermost (slowest links) to the innermost (fastest)::

    pp    pipeline stages: blocks are cut into ``pp * stages_per_rank`` pieces
    dp    replicas: whole copies of the weights, gradients summed
    fsdp  shards: weights, gradients and optimiser cut over these ranks (ZeRO-3, arXiv:1910.02054)
    cp    context: positions of a row cut over these ranks
    tp    tensor: matrices, heads and the vocabulary cut over these ranks, norms along the sequence

``dp * fsdp`` ranks read different rows; ``ep`` divides it and says over how many of them the experts of a
mixture are spread. ``dp > 1`` with ``fsdp > 1`` is hybrid sharding.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from weft.core.errors import ConfigError, UsageError
from weft.core.registry import nearest
from weft.models.config import DecoderConfig
from weft.parallel import schedules

Schedule = Literal["gpipe", "1f1b", "interleaved", "zero-bubble"]
Recompute = Literal["none", "selective", "full"]
Context = Literal["ring", "heads"]

SIZES = ("pp", "dp", "fsdp", "cp", "tp")
"""The dimensions of the mesh of processes, outermost first."""


@dataclass(frozen=True)
class Plan:
    """One layout. See the module for the sizes.

    ``schedule`` and ``stages_per_rank`` belong to pp, ``context`` (ring attention, or all-to-all over
    heads) to cp. ``recompute`` says which activations are made again in the backward pass, ``offload``
    keeps fsdp's shards and optimiser state in the host's memory.
    """

    pp: int = 1
    dp: int = 1
    fsdp: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
    schedule: Schedule = "1f1b"
    stages_per_rank: int = 1
    context: Context = "ring"
    recompute: Recompute = "none"
    offload: bool = False

    def __post_init__(self) -> None:
        for name in (*SIZES, "ep", "stages_per_rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"parallel.{name} = {getattr(self, name)} must be at least 1.")
        for name, kind in (("schedule", Schedule), ("context", Context), ("recompute", Recompute)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ConfigError(f"parallel.{name} = {value!r} is not one of {', '.join(known)}.")
        if self.data_ranks % self.ep:
            raise ConfigError(
                f"parallel.ep = {self.ep} does not divide dp * fsdp = {self.data_ranks}; experts are spread "
                "over ranks that read different rows."
            )
        if self.offload and self.fsdp == 1:
            raise ConfigError("parallel.offload = true keeps fsdp's shards on the host; set parallel.fsdp.")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.pp == 1 and self.stages_per_rank > 1:
            raise ConfigError("parallel.stages_per_rank belongs to a pipeline; set parallel.pp.")
        several = self.schedule in ("interleaved", "zero-bubble")
        if self.pp > 1 and several != (self.stages_per_rank > 1):
            raise ConfigError(
                f"parallel.schedule = {self.schedule!r} needs "
                + (
                    "at least 2 stages a rank; set parallel.stages_per_rank."
                    if several
                    else "1 stage a rank."
                )
            )

    @property
    def size(self) -> int:
        """Number of processes."""
        return math.prod(getattr(self, name) for name in SIZES)

    @property
    def data_ranks(self) -> int:
        """Ranks that read different rows."""
        return self.dp * self.fsdp

    @property
    def alone(self) -> bool:
        """Whether one process does it all."""
        return self.size == 1

    @property
    def stages(self) -> int:
        """Pieces that the blocks are cut into."""
        return self.pp * self.stages_per_rank

    def check(self, config: DecoderConfig, *, rows: int, micro_rows: int, length: int) -> None:
        """ConfigError when a model, batch or row length cannot be cut so.

        ``rows``: of a step, over all ranks; ``micro_rows``: of a micro-batch of one rank; ``length``:
        positions a row.
        """
        self._divides("tp", config.num_attention_heads, "num_attention_heads", "query heads")
        self._divides("tp", config.num_key_value_heads, "num_key_value_heads", "key heads")
        self._divides("tp", config.intermediate_size, "intermediate_size", "the feed-forward width")
        self._divides("tp", config.vocab_size, "vocab_size", "the vocabulary")
        self._divides("tp", length // self.cp, "data.sequence_length / cp", "positions")
        if self.stages > config.num_hidden_layers:
            raise ConfigError(
                f"parallel.pp * stages_per_rank = {self.stages} stages need as many blocks, and "
                f"num_hidden_layers = {config.num_hidden_layers}; set parallel.pp lower."
            )
        if self.cp > 1 and length % (2 * self.cp):
            raise ConfigError(
                f"parallel.cp = {self.cp} cuts a row into {2 * self.cp} pieces, which do not fit "
                f"data.sequence_length = {length}; set it to a multiple of {2 * self.cp}."
            )
        if self.cp > 1 and self.context == "heads":
            self._divides("cp", config.num_key_value_heads // self.tp, "num_key_value_heads / tp", "heads")
        if self.ep > 1 and not config.num_experts:
            raise ConfigError(
                f"parallel.ep = {self.ep} spreads experts, and architecture = {config.architecture!r} has "
                "none; leave it out, or train a Qwen3MoeForCausalLM."
            )
        self._divides("ep", config.num_experts, "num_experts", "experts")
        if rows % self.data_ranks:
            raise ConfigError(
                f"parallel.dp * fsdp = {self.data_ranks} ranks cannot share the {rows} rows of a step "
                f"evenly; set train.batch_tokens to a multiple of {self.data_ranks * length}."
            )
        if self.pp > 1 and (rows // self.data_ranks) % micro_rows:
            raise ConfigError(
                f"train.micro_rows = {micro_rows} does not divide the {rows // self.data_ranks} rows of a "
                "rank; a pipeline needs micro-batches of one size."
            )
        if self.pp > 1:
            micros = rows // self.data_ranks // micro_rows
            schedules.order(self.schedule, self.pp, self.stages_per_rank, micros)

    def _divides(self, name: str, value: int, key: str, what: str) -> None:
        size = getattr(self, name)
        if value % size:
            raise ConfigError(
                f"parallel.{name} = {size} cannot share {what} evenly: {key} = {value} is not a multiple of "
                f"it; set parallel.{name} to a divisor of {value}."
            )

    @classmethod
    def parse(cls, text: str) -> Plan:
        """``"dp=2,tp=2,schedule=gpipe"`` as a plan; UsageError names what cannot be read."""
        kinds = get_type_hints(cls)
        values: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in kinds:
                guess = nearest(name, kinds)
                hint = f"did you mean {guess!r}?" if guess else f"known are {', '.join(kinds)}."
                raise UsageError(f"--parallel: {part!r} is not NAME=VALUE of a known name; {hint}")
            values[name] = _read(name, value, kinds[name])
        return cls(**values)

    def __str__(self) -> str:
        """What differs from the default, as :meth:`parse` reads it; ``one process`` for none."""
        default = Plan()
        pairs = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        parts = [f"{name}={_write(value)}" for name, value in pairs if value != getattr(default, name)]
        return ",".join(parts) or "one process"


def _read(name: str, value: str, kind: Any) -> Any:
    if kind is int:
        if not value.isdigit():
            raise UsageError(f"--parallel: {name} = {value!r} must be a whole number.")
        return int(value)
    if kind is bool:
        if value not in ("true", "false"):
            raise UsageError(f"--parallel: {name} = {value!r} must be true or false.")
        return value == "true"
    return value


def _write(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

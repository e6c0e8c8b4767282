"""The parity matrix: every technique, and the sensible pairs and triples, beside one process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tests.parallel.parity import Case, train
from tests.parallel.ranks import Ranks

EXPERTS: dict[str, Any] = {
    "architecture": "Qwen3MoeForCausalLM",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
DENSE: dict[str, Any] = {"num_key_value_heads": 4}
UNTIED: dict[str, Any] = {**DENSE, "tie_word_embeddings": False}

# (processes, plan, what the decoder's shape differs in)
PLANS: tuple[tuple[int, str, dict[str, Any]], ...] = (
    (2, "dp=2", DENSE),
    (2, "fsdp=2", DENSE),
    (2, "fsdp=2,offload=true", DENSE),
    (2, "tp=2", DENSE),
    (2, "tp=2", UNTIED),
    (2, "cp=2", DENSE),
    (2, "cp=2,context=heads", DENSE),
    (2, "pp=2,schedule=gpipe", DENSE),
    (2, "pp=2", DENSE),
    (2, "pp=2", UNTIED),
    (2, "pp=2,schedule=interleaved,stages_per_rank=2", DENSE),
    (2, "pp=2,schedule=zero-bubble,stages_per_rank=2", DENSE),
    (2, "dp=2,ep=2", EXPERTS),
    (2, "fsdp=2,ep=2", EXPERTS),
    (2, "fsdp=2,recompute=full", DENSE),
    (2, "dp=2,recompute=selective", DENSE),
    (4, "dp=4", DENSE),
    (4, "fsdp=4", DENSE),
    (4, "tp=4", DENSE),
    (4, "cp=4", DENSE),
    (4, "pp=4", DENSE),
    (4, "dp=2,fsdp=2", DENSE),
    (4, "dp=2,tp=2", DENSE),
    (4, "fsdp=2,tp=2", DENSE),
    (4, "dp=2,cp=2", DENSE),
    (4, "fsdp=2,cp=2", DENSE),
    (4, "cp=2,tp=2", DENSE),
    (4, "pp=2,dp=2", DENSE),
    (4, "pp=2,fsdp=2", DENSE),
    (4, "pp=2,tp=2", DENSE),
    (4, "pp=2,cp=2", DENSE),
    (4, "dp=2,fsdp=2,ep=2", EXPERTS),
    (4, "dp=2,tp=2,ep=2", EXPERTS),
    (4, "pp=2,dp=2,ep=2", EXPERTS),
    (8, "dp=2,fsdp=2,tp=2", DENSE),
    (8, "pp=2,fsdp=2,tp=2", DENSE),
    (8, "fsdp=2,cp=2,tp=2", DENSE),
    (8, "pp=2,dp=2,cp=2", DENSE),
)


# At 0.01 rounding to bf16 grows so fast that one process is 1.6e-2 from itself when its micro-batches have
# two rows in place of one, so nothing closer could be asked of a layout.
RATES = {"float32": 0.01, "bfloat16": 0.003}


@dataclass(frozen=True)
class Parity:
    """Largest relative differences to one process: of any step's loss, of any first gradient."""

    loss: float
    gradient: float


def measure(ranks: Ranks, plan: str, shape: dict[str, Any], steps: int, dtype: str) -> Parity:
    """How far a run under ``plan`` is from the same run in one process."""
    case = Case(RATES[dtype], steps, micro_rows=1, dtype=dtype, config=shape)
    expected, whole = train("", dataclasses.replace(case, backend=None))
    loss, gradient = 0.0, 0.0
    for losses, gradients in ranks.run(train, plan, case):
        loss = max([loss, *(abs(a - b) / b for a, b in zip(losses, expected, strict=True))])
        for name, found in gradients.items():
            gradient = max(gradient, float((found - whole[name]).norm() / whole[name].norm()))
    return Parity(loss, gradient)

"""Expert parallel: rows that travel to their experts train the model of one process."""

from __future__ import annotations

import pytest
from tests.parallel.parity import Case, compare
from tests.parallel.ranks import Ranks

EXPERTS = {
    "architecture": "Qwen3MoeForCausalLM",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "norm_topk_prob": True,
    "num_hidden_layers": 2,
}
CASE = Case(config=EXPERTS, steps=3)


@pytest.mark.parametrize("plan", ["dp=2", "dp=2,ep=2"])
def test_two_ranks(two: Ranks, plan: str) -> None:
    compare(two, plan, CASE)


@pytest.mark.parametrize("plan", ["dp=4,ep=2", "dp=4,ep=4", "fsdp=4,ep=2", "dp=2,fsdp=2,ep=2", "fsdp=4,ep=4"])
def test_four_ranks(four: Ranks, plan: str) -> None:
    """Two copies of each half of the experts; and two experts a rank."""
    compare(four, plan, CASE)

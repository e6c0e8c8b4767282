"""Blocks that torch.compile translated are the blocks as written, under any plan."""

import pytest
import torch
from tests.parallel.parity import Case, compare, train
from tests.parallel.ranks import Ranks, slow

PLANS = slow("fsdp=2,tp=2,recompute=full", "fsdp=4", "dp=2,tp=2,recompute=selective")
TRACED = Case(steps=2, backend="aot_eager")
"""Without code generation, which takes most of the time and knows nothing of plans."""


@pytest.mark.parametrize("plan", PLANS)
def test_traced_blocks_are_eager_ones(four: Ranks, plan: str) -> None:
    compare(four, plan, TRACED)


def _graphs(plan: str, case: Case) -> tuple[int, int]:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    train(plan, case)
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@pytest.mark.parametrize("plan", ["tp=2,recompute=full", *slow("dp=2", "tp=2")])
def test_one_graph_serves_all_blocks(two: Ranks, plan: str) -> None:
    many = Case(steps=1, backend="aot_eager", config={"num_hidden_layers": 10})
    assert two.run(_graphs, plan, many) == [(1, 0), (1, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_generated_code_is_the_eager_block(two: Ranks, dtype: str) -> None:
    near = 1e-5 if dtype == "float32" else 1e-1
    case = Case(steps=3, backend="inductor", dtype=dtype)
    compare(two, "tp=2", case, gradient=near, loss=1e-4 if dtype == "float32" else 1e-2)

"""Fully sharded and hybrid data parallel, recomputation and offload are the one-process run."""

import pytest
from tests.parallel.parity import Case, bf16, compare
from tests.parallel.ranks import Ranks


@pytest.mark.parametrize(
    "plan", ["fsdp=2", "fsdp=2,recompute=full", "fsdp=2,recompute=selective", "fsdp=2,offload=true"]
)
def test_two_shards_are_one_process(two: Ranks, plan: str) -> None:
    compare(two, plan, Case(steps=4))


def test_shards_of_untied_embeddings(two: Ranks) -> None:
    compare(two, "fsdp=2", Case(steps=4, config={"tie_word_embeddings": False}))


def test_hybrid_shards_are_one_process(four: Ranks) -> None:
    compare(four, "dp=2,fsdp=2", Case(steps=4, micro_rows=1))


def test_shards_in_bf16(two: Ranks) -> None:
    compare(two, "fsdp=2", bf16(Case(steps=4)), gradient=3e-2, loss=1e-2)

"""Memory: every formula against a case worked out by hand, and against a trace of the real step."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.models.config import DecoderConfig
from weft.models.decoder import Decoder
from weft.models.presets import Size
from weft.parallel.plan import Plan
from weft.parallel.planner import activations, traced
from weft.parallel.planner.job import Job
from weft.parallel.planner.local import Local
from weft.parallel.planner.machines import cluster_on
from weft.parallel.planner.memory import Style, every_rank, fullest, optimiser_bytes
from weft.parallel.planner.trace import trace

SMALL = Size(4, 128, 32).config(512, 64)
LLAMA_70B = DecoderConfig(
    128256, 8192, 28672, 80, 64, 8, 128,
    architecture="LlamaForCausalLM", qk_norm=False, tie_word_embeddings=False,
)  # fmt: skip


def local(plan=None, *, config=SMALL, rows=8, micro=2, dtype="bf16", **more):
    return Local(Job(config, rows, 64, dtype, **more), plan or Plan(), micro)


def test_parameters_of_one_process_are_the_decoders():
    model = Decoder(SMALL)
    assert local().parameters(0) == sum(p.numel() for p in model.parameters())
    assert local(config=LLAMA_70B).parameters(0) == LLAMA_70B.parameters


def test_stages_share_the_blocks_and_both_ends_hold_a_tied_matrix():
    stages = local(Plan(pp=2))
    matrix = 512 * 128
    assert stages.parameters(0) == 2 * SMALL.block_parameters + matrix
    assert stages.parameters(1) == 2 * SMALL.block_parameters + matrix + 128


def test_shards_by_hand():
    """fsdp cuts matrices, norms stay whole; tp cuts heads, columns and the vocabulary."""
    vectors = 4 * SMALL.block_parameters - 4 * SMALL.block_matrices + 128
    matrices = SMALL.parameters - vectors
    assert local(Plan(fsdp=4)).held(0) == matrices / 4 + vectors
    assert local(Plan(fsdp=2, cp=2)).held(0) == matrices / 4 + vectors
    assert local(Plan(tp=2)).held(0) == matrices / 2 + vectors
    assert local(Plan(dp=2, cp=2)).held(0) == SMALL.parameters


def test_optimiser_by_hand():
    assert optimiser_bytes(local(), (0,)) == 8 * SMALL.parameters
    blocks = 4 * SMALL.block_matrices
    assert optimiser_bytes(local(optimizer="muon"), (0,)) == 8 * SMALL.parameters - 4 * blocks


def test_a_block_by_hand():
    """bf16, native kernels: 128 positions of width 128, 4 heads of 32, 384 inner columns."""
    kept = activations.kept(local(), fused=True, masked=False).block
    N, E, F, H, D = 128, 128, 384, 4, 32
    norms = 2 * (2 * N * E + 4 * N)
    read = 2 * 2 * N * E
    before_rotary = 2 * H * N * (2 * D + 4)
    attention = 2 * N * 4 * H * D + 4 * N * H
    gates = 3 * 2 * N * F
    casts = 2 * SMALL.block_matrices
    assert kept == norms + read + before_rotary + attention + gates + casts


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize(
    ("dtype", "fused", "masked"), [("bf16", True, False), ("fp32", True, True), ("bf16", False, True)]
)
def test_formulas_equal_the_trace(recompute, dtype, fused, masked):
    place = local(Plan(recompute=recompute), dtype=dtype)
    how = Style(fused, masked, 0.0, 1.0)
    seen, foretold = traced.kept(place, how), activations.kept(place, fused, masked)
    assert foretold.block == pytest.approx(seen.block, rel=0.01)
    assert foretold.moment == pytest.approx(seen.moment, rel=0.35)


def test_a_whole_stage_equals_the_trace():
    place = local()
    found = trace(place, 0)
    numbers = activations.kept(place, True, False)
    loss, _ = activations.loss(place)
    foretold = 4 * numbers.block + numbers.shared + numbers.first + numbers.last + loss
    assert foretold == pytest.approx(found.kept, rel=0.03)
    assert found.peak > found.kept
    # Seven products a block forward, twice as many backward; and those of the loss.
    assert found.operations["mm"] >= 4 * 7 * 3


def test_a_stage_of_a_70b_model_is_traced_without_memory():
    place = Local(Job(LLAMA_70B, 64, 4096), Plan(pp=8, tp=8, fsdp=2), 1)
    seen = traced.kept(place, Style(True, False, 0.0, 1.0))
    assert seen.block == pytest.approx(activations.kept(place, True, False).block, rel=0.01)


def test_every_pipeline_rank_has_its_micro_batches_in_flight():
    ranks = every_rank(local(Plan(pp=4), rows=16, micro=1), cluster_on("8 x h100"))
    kept = [memory.activations for memory in ranks[:-1]]
    assert kept == sorted(kept, reverse=True)
    gpipe = every_rank(local(Plan(pp=4, schedule="gpipe"), rows=16, micro=1), cluster_on("8 x h100"))
    assert gpipe[0].activations > 3 * ranks[0].activations


def test_offload_moves_state_to_the_host():
    here = fullest(local(Plan(fsdp=2)), cluster_on("2 x h100"))
    away = fullest(local(Plan(fsdp=2, offload=True)), cluster_on("2 x h100"))
    assert away.weights == away.gradients == away.optimiser == 0.0
    assert away.host == here.weights + here.gradients + here.optimiser


def test_the_fullest_rank_is_the_fullest_of_all():
    for plan in (Plan(pp=4), Plan(pp=2, schedule="interleaved", stages_per_rank=2), Plan(pp=4, tp=2)):
        place = local(plan, rows=32, micro=1)
        every = every_rank(place, cluster_on("8 x h100"))
        assert fullest(place, cluster_on("8 x h100")).total == max(m.total for m in every)


@settings(max_examples=60, deadline=None)
@given(
    micro=st.sampled_from([1, 2, 4]),
    fsdp=st.sampled_from([1, 2, 4]),
    tp=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from(["bf16", "fp32"]),
)
def test_memory_is_monotone(micro, fsdp, tp, dtype):
    """More shards or fewer rows never need more; less recomputation never needs less."""
    on = cluster_on("8 x h100")

    def state(plan):
        memory = fullest(local(plan, rows=32, micro=micro, dtype=dtype), on)
        return memory.weights + memory.gradients + memory.optimiser

    def kept(plan, rows=micro):
        return fullest(local(plan, rows=32, micro=rows, dtype=dtype), on).activations

    plan = Plan(fsdp=fsdp, tp=tp)
    assert state(dataclasses.replace(plan, fsdp=2 * fsdp)) < state(plan)
    assert kept(plan, 2 * micro) > kept(plan)
    by_recompute = [kept(dataclasses.replace(plan, recompute=r)) for r in ("full", "selective", "none")]
    assert by_recompute == sorted(by_recompute)


MIXTURE = DecoderConfig(
    512, 128, 384, 4, 4, 2, 32, architecture="Qwen3MoeForCausalLM",
    num_experts=8, num_experts_per_tok=2, moe_intermediate_size=96,
)  # fmt: skip


def test_experts_by_hand():
    """ep cuts experts, tp does not; under both fsdp cuts them over all ranks that hold the same."""
    model = Decoder(MIXTURE)
    assert local(config=MIXTURE).parameters(0) == sum(p.numel() for p in model.parameters())
    experts = 8 * 3 * 128 * 96
    assert local(Plan(dp=4, ep=4), config=MIXTURE).experts == experts / 4
    assert local(Plan(tp=2), config=MIXTURE).experts == experts
    shared = local(Plan(fsdp=4, ep=2, tp=2), config=MIXTURE)
    assert shared.expert_shards == 4
    # Two of eight experts a token: the rows of two feed-forwards, of this tp rank's positions.
    assert shared.routed == 2 * shared.n
    whole = local(config=MIXTURE)
    assert whole.gated == 2 * whole.N * 96


def test_operations_of_a_mixture_are_the_decoders():
    from weft.parallel.planner import work

    place = Local(Job(MIXTURE, 1, 64), Plan(), 1)
    blocks = work.block_forward(place).flops + work.block_backward(place).flops + 3 * place.attention_flops
    assert 4 * blocks + work.loss(place).flops == pytest.approx(64 * MIXTURE.flops_per_token(64))

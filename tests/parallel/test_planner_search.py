"""The search: what wins, why the others lost, and what would make a request fit."""

import dataclasses

import pytest

from weft.core.errors import ConfigError, ResourceError
from weft.models.config import DecoderConfig
from weft.models.presets import Size
from weft.parallel.plan import Plan
from weft.parallel.planner import change, choice, explain
from weft.parallel.planner.estimate import World, estimate
from weft.parallel.planner.job import Job
from weft.parallel.planner.machines import cluster_on
from weft.parallel.planner.search import FILL, family, layouts, search

SMALL = Size(8, 512, 64).config(8192, 512)
LLAMA_8B = DecoderConfig(
    128256, 4096, 14336, 32, 32, 8, 128,
    architecture="LlamaForCausalLM", qk_norm=False, tie_word_embeddings=False,
)  # fmt: skip


def found_for(config, on, rows=16, length=4096, **more):
    job = Job(config, rows, length, **more)
    return search(job, World.published(cluster_on(on), job))


def test_layouts_use_every_process_once():
    job = Job(SMALL, 64, 512)
    world = World.published(cluster_on("8 x h100"), job)
    plans = list(layouts(job, world))
    assert all(plan.size == 8 for plan in plans)
    assert len(set(plans)) == len(plans)
    assert {family(plan) for plan in plans} >= {"dp", "fsdp", "tp", "pp", "cp", "fsdp+tp", "dp+pp"}


def test_a_small_model_wants_plain_data_parallel():
    """State fits everywhere, and one sum of gradients is the least communication."""
    best = found_for(SMALL, "8 x h100", rows=64, length=512).ranked[0]
    assert best.plan.data_ranks == 8 and best.plan.tp == best.plan.pp == 1
    assert best.plan.recompute == "none"


def test_a_large_model_cannot_be_replicated_and_says_so():
    found = found_for(LLAMA_8B, "8 x h100")
    assert found.ranked and all(p.plan.fsdp * p.plan.tp * p.plan.pp > 1 for p in found.ranked)
    dp = next(loss for loss in found.lost if loss.family == "dp")
    assert dp.kind == "memory"
    words = explain.lost(found, dp)
    assert "does not fit" in words.en and "optimiser state" in words.en
    assert "放不下" in words.zh and "优化器状态" in words.zh


def test_ranked_fit_and_are_in_order():
    found = found_for(LLAMA_8B, "8 x h100")
    assert all(p.memory.total <= FILL * found.world.cluster.memory for p in found.ranked)
    times = [p.step.total for p in found.ranked]
    assert times == sorted(times)
    assert len({str(p) for p in found.ranked}) == len(found.ranked)


def test_every_family_has_one_entry_and_a_reason_in_both_languages():
    found = found_for(LLAMA_8B, "2 x (8 x h100)")
    names = [loss.family for loss in found.lost]
    assert len(set(names)) == len(names) and family(found.ranked[0].plan) not in names
    for loss in found.lost:
        words = explain.lost(found, loss)
        assert words.en and words.zh
        if loss.kind == "slower":
            assert "% slower" in words.en and "慢" in words.zh
    tp = next(loss for loss in found.lost if loss.family == "tp")
    assert tp.kind == "nodes" and "between nodes" in explain.lost(found, tp).en


def test_the_winner_is_explained_with_its_figures():
    found = found_for(LLAMA_8B, "8 x h100")
    english = " ".join(words.en for words in explain.winner(found))
    chinese = " ".join(words.zh for words in explain.winner(found))
    assert str(found.ranked[0].plan) in english and str(found.ranked[0].plan) in chinese
    assert "matrix peak" in english and "closest other family" in english
    assert "建议使用" in chinese and "时间" in chinese


def test_recomputation_only_where_it_is_needed():
    roomy = found_for(LLAMA_8B, "8 x h200", length=2048).ranked[0]
    tight = found_for(LLAMA_8B, "8 x a100-40g", length=8192).ranked[0]
    assert roomy.plan.recompute == "none"
    assert tight.plan.recompute != "none" or tight.plan.tp > 1


def test_nothing_fits_and_the_smallest_change_is_named():
    job = Job(LLAMA_8B, 16, 8192)
    found = search(job, World.published(cluster_on("1 x rtx4090"), job))
    assert not found.ranked and found.closest is not None
    words = choice.refusal(found)
    assert "Nothing fits" in words.en and "more than the" in words.en and "the smallest change" in words.en
    assert "放不下" in words.zh and "改动" in words.zh
    way = change.of_job(job, found.world)
    assert way is not None and "rtx4090" in way.what.en
    with pytest.raises(ResourceError, match="smallest change that helps"):
        choice.refuse(found)


def test_shorter_rows_are_offered_before_more_devices():
    # One layer of a wide model with very long rows: activations alone are too many.
    config = dataclasses.replace(LLAMA_8B, num_hidden_layers=2, vocab_size=1024)
    job = Job(config, 1, 131072, optimizer="adamw")
    world = World.published(cluster_on("1 x rtx4090"), job)
    assert not search(job, world).ranked
    way = change.of_job(job, world)
    assert way is not None and "data.sequence_length" in way.what.en and "data.sequence_length" in way.what.zh


def test_an_asked_for_layout_is_judged():
    job = Job(LLAMA_8B, 16, 4096)
    world = World.published(cluster_on("8 x h100"), job)
    assert choice.judged(job, Plan(fsdp=8), world).memory.total < world.cluster.memory
    with pytest.raises(ResourceError, match=r"dp=8 needs .* GiB a rank.*smallest change that helps.*fsdp=8"):
        choice.judged(job, Plan(dp=8), world)
    with pytest.raises(ConfigError, match="micro-batches as stages"):
        choice.judged(dataclasses.replace(job, rows=4), Plan(pp=8), world)


def test_choose_gives_a_plan_that_fits():
    job = Job(SMALL, 16, 512)
    plan, micro_rows = choice.choose(job, cluster_on("4 x a100"))
    assert plan.size == 4
    plan.check(SMALL, rows=16, micro_rows=micro_rows, length=512)
    huge = Job(dataclasses.replace(LLAMA_8B, num_hidden_layers=500), 1, 4096)
    with pytest.raises(ResourceError, match="Nothing fits"):
        choice.choose(huge, cluster_on("1 x rtx4090"))


def test_more_devices_never_fit_less():
    job = Job(LLAMA_8B, 64, 4096)
    for on in ("8 x a100", "16 x a100", "64 x a100"):
        assert search(job, World.published(cluster_on(on), job)).ranked, on


def test_a_fixed_micro_batch_is_kept():
    found = found_for(SMALL, "8 x h100", rows=64, length=512, micro_rows=2)
    assert {p.micro_rows for p in found.ranked} == {2}


def test_simulation_refines_the_closed_form():
    job = Job(LLAMA_8B, 64, 4096)
    world = World.published(cluster_on("8 x h100"), job)
    plan = Plan(pp=4, fsdp=2, recompute="selective")
    exact, closed = (estimate(job, plan, 1, world, simulate=s) for s in (True, False))
    assert exact.step.bubble != closed.step.bubble
    assert exact.step.compute == closed.step.compute


def test_experts_are_spread_where_they_do_not_fit():
    config = DecoderConfig(
        151936, 2048, 6144, 48, 32, 4, 128, architecture="Qwen3MoeForCausalLM", tie_word_embeddings=False,
        num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
    )  # fmt: skip
    assert config.parameters == pytest.approx(30.5e9, rel=0.01)
    found = found_for(config, "4 x (8 x h100)", rows=64, length=4096)
    assert found.ranked
    families = {family(found.ranked[0].plan), *(loss.family for loss in found.lost)}
    assert any("ep" in name.split("+") for name in families)
    dp = next(loss for loss in found.lost if loss.family == "dp")
    assert dp.kind == "memory"

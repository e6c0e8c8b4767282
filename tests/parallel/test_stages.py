"""Pipelines train the same model as one process, on every schedule."""

import dataclasses

import pytest
import torch
from tests.parallel.parity import ROWS, VOCABULARY, Case, batch, bf16, compare, decoder_config
from tests.parallel.ranks import Ranks, slow

from weft.data.batch import Batch
from weft.models import Decoder
from weft.parallel import schedules
from weft.parallel.mesh import Mesh
from weft.parallel.model import ParallelModel, parallelise
from weft.parallel.plan import Plan
from weft.parallel.stage import Stage
from weft.parallel.world import joined
from weft.train.objectives.pretrain import Pretrain

CASE = Case(steps=3, micro_rows=1)
UNTIED = dataclasses.replace(CASE, config={"tie_word_embeddings": False})


@pytest.mark.parametrize(
    "plan",
    [
        "pp=2,schedule=gpipe",
        "pp=2,schedule=1f1b",
        "pp=2,schedule=interleaved,stages_per_rank=2",
        "pp=2,schedule=zero-bubble,stages_per_rank=2",
    ],
)
def test_schedules_on_two_ranks(two: Ranks, plan: str) -> None:
    compare(two, plan, CASE)


def test_untied_embeddings(two: Ranks) -> None:
    compare(two, "pp=2", UNTIED)
    compare(two, "pp=2,schedule=zero-bubble,stages_per_rank=2", UNTIED)


def test_four_stages_share_tied_embeddings(four: Ranks) -> None:
    compare(four, "pp=4", CASE)


def test_stages_with_replicas(four: Ranks) -> None:
    compare(four, "pp=2,dp=2,schedule=1f1b", CASE)
    compare(four, "pp=2,dp=2,schedule=zero-bubble,stages_per_rank=2", CASE)


@pytest.mark.parametrize(
    "plan",
    [
        "pp=2,fsdp=2,schedule=gpipe",
        "pp=2,fsdp=2,schedule=1f1b",
        "pp=2,fsdp=2,schedule=interleaved,stages_per_rank=2",
        "pp=2,fsdp=2,schedule=zero-bubble,stages_per_rank=2",
        "pp=2,fsdp=2,offload=true",
    ],
)
def test_sharded_stages(four: Ranks, plan: str) -> None:
    compare(four, plan, CASE)


@pytest.mark.slow
def test_hybrid_shards_of_stages(eight: Ranks) -> None:
    compare(eight, "pp=2,dp=2,fsdp=2", CASE)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_activations_are_made_again(two: Ranks, recompute: str) -> None:
    compare(two, f"pp=2,recompute={recompute}", CASE)
    compare(two, f"pp=2,schedule=zero-bubble,stages_per_rank=2,recompute={recompute}", CASE)


def test_bf16_activations_travel(two: Ranks) -> None:
    compare(two, "pp=2,schedule=zero-bubble,stages_per_rank=2", bf16(CASE), gradient=1e-2, loss=1e-2)


def test_muon(two: Ranks) -> None:
    compare(two, "pp=2,schedule=interleaved,stages_per_rank=2", dataclasses.replace(CASE, optimizer="muon"))


def test_fewer_micro_batches_than_stages(four: Ranks) -> None:
    few = dataclasses.replace(CASE, micro_rows=4, steps=2)
    compare(four, "pp=4,schedule=gpipe", few)
    eight = dataclasses.replace(few, config={"num_hidden_layers": 8})
    compare(four, "pp=4,schedule=interleaved,stages_per_rank=2", eight)
    compare(four, "pp=4,schedule=zero-bubble,stages_per_rank=2", eight)


def _model(plan: str, config: dict[str, object] | None = None) -> ParallelModel:
    with joined(torch.device("cpu")) as world:
        whole = Decoder(decoder_config(Case(config=config or {})))
        for parameter in whole.parameters():
            torch.nn.init.normal_(parameter, 0.1, 0.1, generator=torch.Generator().manual_seed(1))
        layout = Plan.parse(plan)
        return parallelise(whole, layout, Mesh.build(layout, world), torch.float32)


def _evaluated(plan: str) -> list[float]:
    """Losses without gradients before, between and after a step's backward, of batches of two sizes."""
    model = _model(plan)
    objective = Pretrain()
    rank, ranks = model.mesh.coordinate("data"), model.mesh.size("data")
    whole = batch(0, masked=True)
    part = whole.part(rank, ranks)
    odd = Batch(*(x[:3] for x in vars(whole).values())).part(rank, ranks)
    losses = [model.evaluate(objective, part, torch.float32), model.evaluate(objective, odd, torch.float32)]
    assert all(p.grad is None for p in model.parameters())
    model.accumulate(objective, [part.part(i, 4) for i in range(4)], 1.0, torch.float32)
    return [*losses, model.evaluate(objective, part, torch.float32)]


@pytest.mark.parametrize("plan", ["pp=2", "pp=2,schedule=zero-bubble,stages_per_rank=2"])
def test_evaluation_is_the_loss_of_one_process(two: Ranks, plan: str) -> None:
    expected = _evaluated("")
    for losses in two.run(_evaluated, plan):
        assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("plan", ["pp=2,fsdp=2", "pp=2,fsdp=2,schedule=interleaved,stages_per_rank=2"])
def test_evaluation_on_sharded_stages(four: Ranks, plan: str) -> None:
    expected = _evaluated("")
    for losses in four.run(_evaluated, plan):
        assert losses == pytest.approx(expected, rel=1e-5)


def _held(plan: str) -> tuple[list[str], list[int]]:
    model = _model(plan)
    assert isinstance(model.module, Stage) and model.pipeline is not None
    return [name for name, _ in model.module.named_parameters()], list(model.pipeline.stages)


def test_a_stage_holds_its_blocks_under_the_names_of_the_decoder(two: Ranks) -> None:
    names = [name for name, _ in Decoder(decoder_config(Case())).named_parameters()]
    (first, stages), (last, others) = two.run(_held, "pp=2,schedule=interleaved,stages_per_rank=2")
    assert (stages, others) == ([0, 2], [1, 3])
    assert set(first) | set(last) == set(names)
    assert set(first) & set(last) == {"embedding.weight"}
    assert {name.split(".")[1] for name in first if name.startswith("blocks")} == {"0", "2"}
    assert "norm.weight" in last and "norm.weight" not in first


def _copies(plan: str) -> torch.Tensor | None:
    """The embedding of this rank after two steps of plain descent."""
    model = _model(plan)
    for step in range(2):
        whole = batch(step, masked=False)
        model.accumulate(Pretrain(), [whole.part(i, ROWS) for i in range(ROWS)], 1e-3, torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    held = model.module.embedding
    return None if held is None else held.weight.detach()


def test_copies_of_tied_embeddings_stay_equal_bit_for_bit(four: Ranks) -> None:
    first, *between, last = four.run(_copies, "pp=4")
    assert first.shape == (VOCABULARY, 32) and torch.equal(first, last)
    assert between == [None, None]


def _executed(plan: str, micros: int) -> list[tuple[int, str, int]]:
    """What PyTorch's schedule runs on this rank, in order."""
    model = _model(plan, {"num_hidden_layers": 8})
    assert model.pipeline is not None
    rows = [model.rows(batch(0, masked=False).part(0, ROWS)) for _ in range(micros)]
    schedule = model.pipeline._schedule(micros, rows[0].tokens.shape, torch.float32, True)
    seen: list[tuple[int, str, int]] = []

    def note(stage: object, name: str) -> None:
        plain = getattr(stage, name)

        def noted(micro: int, *args: object, **settings: object) -> object:
            split = settings.get("full_backward") is False
            kind = {"forward_one_chunk": "F", "backward_one_chunk": "I" if split else "B"}.get(name, "W")
            seen.append((stage.stage_index, kind, micro))  # type: ignore[attr-defined]
            return plain(micro, *args, **settings)

        setattr(stage, name, noted)

    for stage in getattr(schedule, "_stages", None) or [schedule._stage]:
        for name in ("forward_one_chunk", "backward_one_chunk", "backward_weight_one_chunk"):
            note(stage, name)
    model.pipeline.train(Pretrain(), rows, 1.0, torch.float32)
    return seen


@pytest.mark.parametrize("micros", [1, 3, *slow(4, 8)])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zero-bubble"])
def test_orders_are_what_runs(four: Ranks, schedule: str, micros: int) -> None:
    several = schedule in ("interleaved", "zero-bubble")
    if schedule == "1f1b" and micros < 4:
        return
    stages = 2 if several else 1
    executed = four.run(_executed, f"pp=4,schedule={schedule},stages_per_rank={stages}", micros)
    expected = schedules.order(schedule, 4, stages, micros)
    assert [tuple(actions) for actions in executed] == list(expected)

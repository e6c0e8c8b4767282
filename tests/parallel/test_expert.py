"""Expert parallel: rows that travel to their experts train the model of one process."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.parallel.parity import LENGTH, ROWS, Case, batch, bf16, compare, decoder_config
from tests.parallel.ranks import Ranks, slow
from torch.distributed.tensor import DTensor

from weft.core.errors import ConfigError
from weft.models import Decoder
from weft.models.moe import routers
from weft.parallel.mesh import Mesh
from weft.parallel.model import parallelise
from weft.parallel.plan import Plan
from weft.parallel.world import joined
from weft.train.balance import Balance
from weft.train.config import BalanceSection
from weft.train.objectives.pretrain import Pretrain

EXPERTS = {
    "architecture": "Qwen3MoeForCausalLM",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "norm_topk_prob": True,
    "num_hidden_layers": 2,
}
CASE = Case(config=EXPERTS, steps=3)
DEEP = dataclasses.replace(CASE, config={**EXPERTS, "num_hidden_layers": 4})
MUON = dataclasses.replace(CASE, optimizer="muon")


@pytest.mark.parametrize("plan", ["dp=2", "fsdp=2", "dp=2,ep=2", "fsdp=2,ep=2"])
def test_two_ranks(two: Ranks, plan: str) -> None:
    """The last rank's rows of the first step are padding."""
    compare(two, plan, CASE)


@pytest.mark.parametrize(
    "plan", ["dp=4,ep=2", "fsdp=4,ep=4", *slow("dp=4,ep=4", "fsdp=4,ep=2", "dp=2,fsdp=2,ep=2")]
)
def test_four_ranks(four: Ranks, plan: str) -> None:
    """Copies of each half of the experts, whole and cut further; and two experts a rank."""
    compare(four, plan, CASE)


@pytest.mark.parametrize("plan", ["fsdp=4,ep=2", *slow("dp=4", "dp=4,ep=2")])
def test_muon_takes_each_expert_on_its_own(four: Ranks, plan: str) -> None:
    compare(four, plan, MUON)


def test_bf16(four: Ranks) -> None:
    """Choices of experts are discrete, so that a rounding may send a token elsewhere."""
    compare(four, "dp=4,ep=2", bf16(CASE), gradient=5e-2, loss=1e-2)


def test_a_layer_with_one_feed_forward_between(two: Ranks) -> None:
    mixed = {**EXPERTS, "num_hidden_layers": 3, "mlp_only_layers": (1,)}
    compare(two, "dp=2,ep=2,recompute=full", dataclasses.replace(CASE, config=mixed))


@pytest.mark.parametrize("plan", ["tp=2", "cp=2", "pp=2", "pp=2,schedule=zero-bubble,stages_per_rank=2"])
def test_experts_under_other_techniques(two: Ranks, plan: str) -> None:
    compare(two, plan, DEEP)


@pytest.mark.parametrize(
    "plan",
    [
        "fsdp=2,tp=2,ep=2",
        "pp=2,dp=2,ep=2,schedule=zero-bubble,stages_per_rank=2",
        *slow("fsdp=2,cp=2,ep=2", "fsdp=4,ep=2,recompute=selective", "dp=2,tp=2,ep=2", "dp=2,cp=2,ep=2"),
        *slow("pp=2,dp=2,ep=2", "pp=2,fsdp=2,ep=2"),
    ],
)
def test_spread_experts_beside_other_techniques(four: Ranks, plan: str) -> None:
    compare(four, plan, DEEP)


def test_compiled_blocks_leave_experts_as_written(two: Ranks) -> None:
    compare(two, "dp=2,ep=2", dataclasses.replace(CASE, backend="eager"))


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["dp=4,ep=2", "dp=4,ep=4", "dp=2,fsdp=2,ep=2", "fsdp=4,ep=2"])
def test_fifty_steps(four: Ranks, plan: str) -> None:
    compare(four, plan, dataclasses.replace(CASE, steps=50))


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["dp=4", "dp=4,ep=2", "fsdp=4,ep=2"])
def test_ten_steps_of_muon(four: Ranks, plan: str) -> None:
    """Not more, since Muon makes rounding large: one process with other micro-batches goes as far apart."""
    compare(four, plan, dataclasses.replace(MUON, steps=10), loss=1e-3)


def steered(plan: str) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Loss, gradients and biases after a step in which expert 5 gets no token and expert 2 most of them."""
    layout = Plan.parse(plan)
    with joined(torch.device("cpu")) as world:
        mesh = Mesh.build(layout, world)
        whole = Decoder(decoder_config(CASE))
        noise = torch.Generator().manual_seed(1)
        for name, parameter in whole.named_parameters():
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.2, generator=noise)
        model = parallelise(whole, layout, mesh, torch.float32)
        for router in routers(model.module).values():
            router.bias[5] = -10.0
            router.bias[2] = 10.0
        balance = Balance(model.module, BalanceSection(rate=0.5), 100, model.total_load)
        part = batch(0, masked=True).part(mesh.coordinate("data"), mesh.size("data"))
        loss = model.accumulate(Pretrain(), [part], 1e-3, torch.float32)
        balance.after_step(1)
        gradients = {}
        for name, parameter in model.module.named_parameters():
            assert parameter.grad is not None
            found = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
            gradients[name] = found.clone()
        return loss, gradients, {name: r.bias.clone() for name, r in routers(model.module).items()}


@pytest.mark.parametrize("plan", ["dp=4,ep=4", "fsdp=4,ep=2"])
def test_a_lopsided_load(four: Ranks, plan: str) -> None:
    """Every rank moves the biases alike, by the load of all; an expert without tokens stays as it is."""
    expected, whole, biases = steered("")
    assert all(bias[5] == -9.5 and bias[2] == 9.5 for bias in biases.values())
    for loss, gradients, found in four.run(steered, plan):
        assert loss == pytest.approx(expected, rel=1e-6)
        assert all(torch.equal(found[name], biases[name]) for name in biases)
        for name, gradient in gradients.items():
            assert (gradient - whole[name]).norm() <= 1e-5 * whole[name].norm(), name
            assert not (name.endswith("experts.up") and gradient[5].any())


@pytest.mark.parametrize(
    ("plan", "changes", "sentence"),
    [
        ("dp=3,ep=3", {}, "parallel.ep = 3 cannot share experts evenly: num_experts = 8"),
        (
            "dp=2,ep=2",
            {"architecture": "Qwen3ForCausalLM", "num_experts": 0},
            "parallel.ep = 2 spreads experts",
        ),
    ],
)
def test_plans_that_do_not_fit(plan: str, changes: dict, sentence: str) -> None:
    config = decoder_config(Case(config={**EXPERTS, **changes}))
    with pytest.raises(ConfigError, match=sentence):
        Plan.parse(plan).check(config, rows=ROWS, micro_rows=2, length=LENGTH)

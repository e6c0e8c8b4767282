"""Balance by biases: what moves them, when they fade, and that a run with experts resumes to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.models.test_moe import CONFIG
from tests.train.test_session import StopAt, losses, make_run, train, weights

from weft.checkpoint import state as checkpoint
from weft.checkpoint.huggingface import load_model, save_model
from weft.core.errors import CheckpointError, ConfigError, Interrupted
from weft.models import Decoder
from weft.models.moe import SparseFeedForward, routers
from weft.train.balance import Balance
from weft.train.config import BalanceSection

EXPERTS = ("model.architecture=Qwen3MoeForCausalLM", "model.num_experts=4", "train.arithmetic=fp32")


def a_router(load: list[int], **options: object) -> tuple[Balance, torch.Tensor]:
    torch.manual_seed(0)
    model = Decoder(CONFIG)
    balance = Balance(model, BalanceSection(rate=0.5, release=0.4), 10, **options)
    router = next(iter(balance.routers.values()))
    router.load += torch.tensor(load)
    return balance, router.bias


def test_a_bias_follows_the_error_of_the_load() -> None:
    balance, bias = a_router([0, 10, 5, 5, 5, 5])
    balance.after_step(1)
    assert bias.tolist() == [0.5, -0.5, 0.0, 0.0, 0.0, 0.0]
    assert balance.load.imbalance == pytest.approx(1.0)
    shares = next(iter(balance.load.shares.values()))
    assert shares == pytest.approx([0, 1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6], abs=1e-4)
    assert not any(router.load.any() for router in balance.routers.values())


def test_the_load_of_all_ranks_decides() -> None:
    others = torch.tensor([0, 20, 0, 10, 10, 10])
    balance, bias = a_router([20, 0, 0, 5, 5, 5], total=lambda load: load + others)
    balance.after_step(1)
    assert bias.tolist() == [-0.5, -0.5, 0.5, -0.5, -0.5, -0.5]


def test_biases_fade_in_the_release() -> None:
    """Ten steps, the last 0.4 of them: 6 steer, 2 fade, 2 have none."""
    balance, bias = a_router([0, 10, 5, 5, 5, 5])
    balance.after_step(6)
    assert bias[0] == 0.5
    balance.after_step(7)
    assert bias[0] == 0.25
    balance.after_step(8)
    assert not bias.any()
    balance.after_step(9)
    assert not bias.any()


def test_balance_works_on_a_lopsided_router() -> None:
    """Most tokens want one expert; the biases even that out within the steps of a short run."""
    torch.manual_seed(0)
    layer = SparseFeedForward(CONFIG)
    layer.router.weight.data[0] += 0.05
    x = torch.randn(4, 128, 32) + 1.0
    balance = Balance(layer, BalanceSection(rate=0.002, release=0.0), 300)
    seen = []
    for step in range(250):
        layer(x)
        balance.after_step(step + 1)
        seen.append(balance.load.imbalance)
    # Fixed steps swing about the even load, so the mean of many is looked at.
    assert seen[0] > 1.5 and sum(seen[-50:]) / 50 < 0.3


def test_a_model_with_biases_is_not_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Decoder(CONFIG)
    next(iter(routers(model).values())).bias[2] = 0.25
    with pytest.raises(CheckpointError, match=r"biases that balance the experts are up to 0\.25"):
        save_model(tmp_path / "model", model, None)
    assert Balance(model, BalanceSection(), 1).drop() == 0.25
    save_model(tmp_path / "model", model, None)


def test_a_run_with_experts_resumes_to_the_bit(data_folder: Path, tmp_path: Path) -> None:
    run = make_run(data_folder, *EXPERTS, "balance.rate=0.01")
    train(run, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(run, tmp_path / "cut", hooks=[StopAt(6)])
    saved = checkpoint.load(checkpoint.newest(tmp_path / "cut" / "checkpoints"))
    biases = {name: t for name, t in saved.tensors.items() if name.endswith("router.bias")}
    assert len(biases) == 2 and all(bias.any() for bias in biases.values())
    figures = train(run, tmp_path / "cut")["figures"]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert figures["expert_bias_dropped"] == 0.0
    assert figures["parameters"] > figures["active_parameters"]

    records = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["expert_imbalance"] >= 0 for record in records)
    shares = records[-1]["expert_load"]["blocks.0.feed_forward.router"]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1.0, abs=1e-3)
    config = load_model(tmp_path / "whole").config
    assert (config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size) == (4, 2, 64)


def test_without_a_release_the_dropped_bias_is_told(data_folder: Path, tmp_path: Path) -> None:
    run = make_run(data_folder, *EXPERTS, "balance.rate=0.01", "balance.release=0", "train.steps=4")
    assert train(run, tmp_path / "run")["figures"]["expert_bias_dropped"] > 0


def test_experts_need_an_architecture_that_has_them(data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_experts = 4 does not fit architecture = 'Qwen3ForCausalLM'"):
        train(make_run(data_folder, "model.num_experts=4"), tmp_path)


def test_keys_of_the_balance_are_checked(data_folder: Path) -> None:
    for key in ("rate", "release"):
        with pytest.raises(ConfigError, match=f"balance.{key} = 2.0 must lie between 0 and 1"):
            make_run(data_folder, f"balance.{key}=2")

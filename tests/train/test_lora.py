"""Adapters are trained beside frozen weights, resumed exactly, and give the same alone, merged and served."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_session import StopAt, losses, make_run, train

import weft
from weft.checkpoint.convert import ConvertConfig, convert
from weft.checkpoint.huggingface import load_model
from weft.core.errors import CheckpointError, ConfigError, Interrupted
from weft.core.files import hash_file
from weft.models.layers import Linear
from weft.ops.attention import PackedRows
from weft.parallel.plan import Plan
from weft.train.config import LoraSection
from weft.train.lora import LowRankLinear, check

LORA = (
    "lora.rank=4",
    "lora.alpha=8",
    "optimizer.name=adamw",
    "optimizer.learning_rate=0.01",
    "train.steps=60",
)


@pytest.fixture(scope="module")
def start(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "run"
    train(make_run(data_folder), folder)
    return folder


@pytest.fixture(scope="module")
def tuned(data_folder: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "run"
    train(make_run(data_folder, f"model.start={start}", *LORA), folder)
    return folder


def validation(folder: Path) -> float:
    loss: float = json.loads((folder / "manifest.json").read_text())["figures"]["validation_loss"]
    return loss


def logits(folder: Path) -> torch.Tensor:
    model = load_model(folder, torch.float32)
    tokens = torch.arange(60, 90).unsqueeze(0)
    with torch.inference_mode():
        return model.logits(model(tokens, PackedRows(torch.zeros_like(tokens, dtype=torch.int32))))


def test_only_the_adapter_is_trained_and_the_loss_falls(start: Path, tuned: Path) -> None:
    assert validation(tuned) < validation(start)
    tensors = load_file(tuned / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 7
    assert all(bool(tensor.abs().max() > 0) for tensor in tensors.values())
    before, after = load_model(start), load_model(tuned)
    for name, parameter in before.named_parameters():
        same = torch.equal(parameter, after.get_parameter(name))
        assert same != (name.startswith("blocks.") and parameter.ndim > 1), name


def test_it_goes_on_exactly_where_it_stopped(
    data_folder: Path, start: Path, tuned: Path, tmp_path: Path
) -> None:
    run = make_run(data_folder, f"model.start={start}", *LORA)
    with pytest.raises(Interrupted):
        train(run, tmp_path / "parts", hooks=[StopAt(5)])
    train(run, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tuned)
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in (tuned, tmp_path / "parts")]
    assert hash_file(files[0]) == hash_file(files[1])


def test_merged_and_served_are_the_same(start: Path, tuned: Path, tmp_path: Path) -> None:
    merged = ConvertConfig(adapter=str(tuned / "adapter"))
    convert(start, tmp_path / "merged", merged, command="export")
    torch.testing.assert_close(logits(tmp_path / "merged"), logits(tuned / "model"), rtol=1e-5, atol=1e-5)
    asked = {"max_new_tokens": 20, "temperature": 0.0, "ignore_eos": True}
    beside = weft.load(start, "float32", "cpu", adapters={"a": tuned / "adapter"})
    alone = weft.load(tuned, "float32", "cpu")
    prompt = list(range(60, 90))
    assert beside.generate(prompt, adapter="a", **asked) == alone.generate(prompt, **asked)
    assert beside.generate(prompt, **asked) == weft.load(start, "float32", "cpu").generate(prompt, **asked)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
@pytest.mark.filterwarnings("ignore")
def test_peft_opens_it(start: Path, tuned: Path, tmp_path: Path) -> None:
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(start / "model", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tuned / "adapter").eval()
    tokens = torch.arange(60, 90).unsqueeze(0)
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens).logits, logits(tuned), rtol=1e-4, atol=1e-4)


def test_frozen_matrices_may_be_int8(data_folder: Path, start: Path, tuned: Path, tmp_path: Path) -> None:
    run = make_run(data_folder, f"model.start={start}", *LORA, "lora.base=int8")
    train(run, tmp_path / "run")
    assert validation(tmp_path / "run") < validation(start)
    assert losses(tmp_path / "run")[0] == pytest.approx(losses(tuned)[0], rel=0.01)


def test_int8_passes_gradients_as_its_rounded_matrix_does() -> None:
    base = Linear(24, 16, bias=True)
    section = LoraSection(rank=2, base="int8")
    module = LowRankLinear(base, section, torch.Generator().manual_seed(0)).eval()
    module.lora_b.data.normal_()
    rounded = module.quantised.float() * module.row_scale
    whole = rounded + module.scale * module.lora_b @ module.lora_a
    x = torch.randn(5, 24, requires_grad=True)
    torch.testing.assert_close(module(x), x @ whole.T + base.bias)
    (gradient,) = torch.autograd.grad(module(x).square().sum(), x)
    torch.testing.assert_close(gradient, 2 * (x @ whole.T + base.bias) @ whole, rtol=1e-5, atol=1e-4)
    assert (rounded - base.weight).abs().max() <= module.row_scale.max() / 2 + 1e-7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("lora.rank=4",), "needs model.start"),
        (("lora.rank=4", "model.start=START", 'lora.targets=["nothing"]'), "names no matrix"),
        (("lora.rank=-1",), "lora.rank = -1"),
        (("lora.rank=4", "lora.dropout=1.0"), "lora.dropout = 1.0"),
        (("lora.targets=[]",), "lora.targets is empty"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    data_folder: Path, start: Path, tmp_path: Path, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make_run(data_folder, *(one.replace("START", str(start)) for one in settings)), tmp_path / "x")


def test_plans_beyond_dp_are_refused(start: Path) -> None:
    run = make_run(Path("x"), f"model.start={start}", *LORA)
    check(run)
    check(dataclasses.replace(run, parallel=Plan(dp=2)))
    with pytest.raises(ConfigError, match="alone or with dp"):
        check(dataclasses.replace(run, parallel=Plan(fsdp=2)))


def test_an_adapter_that_is_not_there_is_one_sentence(start: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no"):
        convert(start, tmp_path / "x", ConvertConfig(adapter=str(tmp_path)), command="export")
    shutil.rmtree(tmp_path / "x", ignore_errors=True)

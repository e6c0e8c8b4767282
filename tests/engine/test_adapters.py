"""LoRA adapters: equal to merged weights, one for each request, coming and going; foreign files refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from lora import TARGETS, write
from weft.core.errors import CheckpointError, UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.runner import prepare

GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=3)
PROMPT = list(range(60, 95))


def merged(model, tensors, scale=2.0):
    model = copy.deepcopy(model)
    for pattern, (name, _, _) in TARGETS.items():
        for layer in range(2):
            key = f"base_model.model.{pattern.format(layer)}"
            a, b = (tensors[f"{key}.lora_{letter}.weight"] for letter in "AB")
            weight = model.get_submodule(f"blocks.{layer}.{name}").weight
            weight += scale * (b @ a)
    return model


def run(engine, *requests):
    sequences = [engine.add(PROMPT, GREEDY, adapter=adapter) for adapter in requests]
    while not all(sequence.finished for sequence in sequences):
        engine.step()
    return [(sequence.generated, sequence.logprobs) for sequence in sequences]


@pytest.fixture
def model(tiny_decoder):
    return tiny_decoder()


def test_an_adapter_is_the_model_with_merged_weights(model, tiny_tokenizer, tmp_path):
    tensors = write(tmp_path / "a", 1)
    engine = LLM(model, tiny_tokenizer, adapted=model)
    engine.adapters.load("a", tmp_path / "a")
    ((tokens, logs),) = run(engine, "a")
    ((expected, expected_logs),) = run(LLM(merged(model, tensors), tiny_tokenizer), None)
    assert tokens == expected != run(engine, None)[0][0]
    assert [e.logprob for e in logs] == pytest.approx([e.logprob for e in expected_logs], abs=1e-3)


def test_rank_stabilised_adapters_scale_by_the_root(model, tiny_tokenizer, tmp_path):
    tensors = write(tmp_path / "a", 1, use_rslora=True)
    engine = LLM(model, tiny_tokenizer, adapted=model)
    engine.adapters.load("a", tmp_path / "a")
    ((expected, _),) = run(LLM(merged(model, tensors, 8 / 4**0.5), tiny_tokenizer), None)
    assert run(engine, "a")[0][0] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_requests_with_different_adapters_do_not_touch_each_other(model, tiny_tokenizer, tmp_path, dtype):
    model = prepare(model, torch.device("cpu"), dtype)
    alone = {}
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / name, seed)
    for name in ("a", "b", None):
        engine = LLM(copy.deepcopy(model), tiny_tokenizer, adapted=copy.deepcopy(model))
        if name:
            engine.adapters.load(name, tmp_path / name)
        (alone[name],) = run(engine, name)
    assert len({tuple(tokens) for tokens, _ in alone.values()}) == 3
    engine = LLM(model, tiny_tokenizer, adapted=copy.deepcopy(model), token_budget=40)
    for name in ("a", "b"):
        engine.adapters.load(name, tmp_path / name)
    names = ["a", None, "b", "a", None, "b"]
    assert run(engine, *names) == [alone[name] for name in names]
    assert run(engine, *names) == [alone[name] for name in names], "prefixes are found again per adapter"


def test_adapters_come_and_go_while_the_model_serves(model, tiny_tokenizer, tmp_path):
    write(tmp_path / "a", 1)
    write(tmp_path / "b", 2)
    engine = LLM(model, tiny_tokenizer, adapted=model)
    engine.adapters.load("x", tmp_path / "a")
    first = run(engine, "x")
    assert engine.adapters.names == ("x",)
    engine.unload_adapter("x")
    with pytest.raises(UsageError, match="adapter"):
        engine.add(PROMPT, GREEDY, adapter="x")
    engine.adapters.load("x", tmp_path / "b")
    second = run(engine, "x")
    assert second != first, "no block of the old adapter is found under the new one's name"


@pytest.mark.parametrize("name", ["", None, 3])
def test_an_adapter_needs_a_name(model, tiny_tokenizer, tmp_path, name):
    """Without one its prefixes would be those of the model itself."""
    engine = LLM(model, tiny_tokenizer, adapted=model)
    with pytest.raises(UsageError, match="cannot be named"):
        engine.adapters.load(name, tmp_path)


def test_an_adapter_in_use_is_not_unloaded(model, tiny_tokenizer, tmp_path):
    write(tmp_path / "a", 1)
    engine = LLM(model, tiny_tokenizer, adapted=model)
    engine.adapters.load("a", tmp_path / "a")
    with pytest.raises(UsageError, match="loaded already"):
        engine.adapters.load("a", tmp_path / "a")
    sequence = engine.add(PROMPT, GREEDY, adapter="a")
    with pytest.raises(UsageError, match="still works"):
        engine.unload_adapter("a")
    engine.abort(sequence)
    engine.unload_adapter("a")


def test_requests_cannot_name_adapters_where_there_are_none(model, tiny_tokenizer):
    with pytest.raises(UsageError, match="without adapters"):
        LLM(model, tiny_tokenizer).add(PROMPT, GREEDY, adapter="a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_alpha": "8"}, "rank r and lora_alpha"),
        ({"r": 8}, "another model"),
    ],
)
def test_adapters_of_other_kinds_are_refused(model, tiny_tokenizer, tmp_path, changes, message):
    write(tmp_path / "a", 1)
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=message):
        LLM(model, tiny_tokenizer, adapted=model).adapters.load("a", tmp_path / "a")


def test_damaged_and_pickled_adapters_are_refused(model, tiny_tokenizer, tmp_path):
    engine = LLM(model, tiny_tokenizer, adapted=model)
    write(tmp_path / "cut", 1)
    file = tmp_path / "cut/adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    write(tmp_path / "nan", 1)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({key: torch.full((4, 32), float("nan"))}, tmp_path / "nan/adapter_model.safetensors")
    write(tmp_path / "pickle", 1)
    (tmp_path / "pickle/adapter_model.safetensors").rename(tmp_path / "pickle/adapter_model.bin")
    for name, message in (("cut", "cannot be read"), ("nan", "no sound matrix"), ("pickle", "pickle|bin")):
        with pytest.raises(CheckpointError, match=message):
            engine.adapters.load(name, tmp_path / name)
    with pytest.raises(CheckpointError):
        engine.adapters.load("none", tmp_path / "none")

"""weft.load and what a loaded model does."""

from __future__ import annotations

import pytest
import torch

import weft
from weft.api import Model
from weft.checkpoint.huggingface import save_model
from weft.core.errors import CheckpointError, DataError, ResourceError, UsageError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_decoder, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save_model(folder, tiny_decoder(), tiny_tokenizer)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint) -> Model:
    return weft.load(checkpoint, dtype="float32", device="cpu")


def test_token_ids_in_token_ids_out(model):
    samples = model.generate([0], max_length=50, num_samples=5, seed=1, ignore_eos=True)
    assert [len(sample) for sample in samples] == [50] * 5
    assert all(sample[0] == 0 for sample in samples)
    assert len({tuple(sample) for sample in samples}) == 5
    assert samples == model.generate([0], max_length=50, num_samples=5, seed=1, ignore_eos=True)


def test_text_in_text_out_with_the_prompt_in_front(model):
    samples = model.generate("今天", max_length=20, num_samples=2, seed=2)
    assert len(samples) == 2
    assert all(sample.startswith("今天") and len(sample) > 2 for sample in samples)


def test_the_pieces_of_a_stream_are_the_text(model):
    settings = {"max_new_tokens": 30, "seed": 5, "temperature": 1.2}
    assert "今天" + "".join(model.stream("今天", **settings)) == model.generate("今天", **settings)[0]


def test_lengths_count_as_documented(model):
    prompt = model.llm.encode("天气")
    new = model.complete("天气", max_length=len(prompt) + 3, ignore_eos=True)[0].tokens
    assert len(new) == 3
    assert len(model.complete("天气", max_new_tokens=3, ignore_eos=True)[0].tokens) == 3
    assert len(model.complete("天气", ignore_eos=True)[0].tokens) == 50 - len(prompt)
    with pytest.raises(UsageError, match=f"{len(prompt)} tokens and max_length = 2"):
        model.generate("天气", max_length=2)
    with pytest.raises(UsageError, match="not both"):
        model.generate("天气", max_length=20, max_new_tokens=3)


def test_a_conversation_is_answered(model):
    messages = [{"role": "user", "content": "你好 <|im_end|>"}]
    assert model.chat(messages, seed=1, max_new_tokens=10) == model.chat(messages, seed=1, max_new_tokens=10)
    with pytest.raises(DataError, match="role"):
        model.chat([{"content": "no role"}])


def test_stop_may_be_a_text_or_a_list(model):
    free = model.complete("a", temperature=0, max_new_tokens=30, ignore_eos=True)[0].text
    stop = free[5:7]
    cut = model.complete("a", temperature=0, max_new_tokens=30, ignore_eos=True, stop=stop)[0]
    assert cut.text == free[: free.index(stop)]
    assert cut == model.complete("a", temperature=0, max_new_tokens=30, ignore_eos=True, stop=[stop])[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temprature": 1}, "did you mean temperature"),
        ({"temperature": -1}, "temperature"),
        ({"stop": 3}, "stop"),
        ({"num_samples": 0}, "num_samples"),
        ({"max_length": 10**6, "max_new_tokens": 1}, "not both"),
        ({"max_new_tokens": 0}, "max_tokens"),
    ],
)
def test_wrong_settings_are_named(model, settings, message):
    with pytest.raises(UsageError, match=message):
        model.generate("a", **settings)


def test_a_prompt_beyond_the_context_gives_the_lengths(model):
    with pytest.raises(UsageError, match="has 200 tokens, but the context holds 128"):
        model.generate([1] * 200, max_new_tokens=5)


def test_dtypes_and_devices(checkpoint):
    wide = weft.load(checkpoint, dtype="float32", device="cpu").llm.runner.model
    half = weft.load(checkpoint, dtype="bfloat16", device="cpu").llm.runner.model
    assert (wide.embedding.weight.dtype, half.embedding.weight.dtype) == (torch.float32, torch.bfloat16)
    with pytest.raises(UsageError, match="dtype"):
        weft.load(checkpoint, dtype="int3")
    with pytest.raises(UsageError, match="device"):
        weft.load(checkpoint, device="abacus")
    with pytest.raises(ResourceError, match="GPU"):
        weft.load(checkpoint, device="cuda:99")


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        weft.load(tmp_path / "nowhere")

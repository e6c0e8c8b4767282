"""What a checkpoint may be loaded with: adapters, a draft, a cache of another format."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import weft
from lora import write
from weft.checkpoint.huggingface import save_model
from weft.cli.generate import command
from weft.core.errors import CheckpointError, UsageError

PROMPT = list(range(60, 95))
GREEDY = {"max_new_tokens": 12, "temperature": 0.0, "ignore_eos": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_decoder, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("loading") / "tiny"
    save_model(folder, tiny_decoder(), tiny_tokenizer)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    for name, seed in (("one", 1), ("two", 2)):
        write(root / name, seed)
    return root


def test_adapters_are_chosen_by_name_and_come_and_go(checkpoint, adapters):
    plain = weft.load(checkpoint, "float32", "cpu").generate(PROMPT, **GREEDY)
    model = weft.load(checkpoint, "float32", "cpu", adapters={"one": adapters / "one"})
    assert model.generate(PROMPT, **GREEDY) == plain
    one = model.generate(PROMPT, adapter="one", **GREEDY)
    assert one != plain
    with pytest.raises(UsageError, match="two"):
        model.generate(PROMPT, adapter="two", **GREEDY)
    model.load_adapter("two", adapters / "two")
    assert model.generate(PROMPT, adapter="two", **GREEDY) not in (plain, one)
    model.unload_adapter("one")
    with pytest.raises(UsageError, match="one"):
        model.generate(PROMPT, adapter="one", **GREEDY)


def test_without_adapters_none_can_be_named(checkpoint, adapters):
    model = weft.load(checkpoint, "float32", "cpu")
    with pytest.raises(UsageError, match="loaded without adapters"):
        model.load_adapter("one", adapters / "one")
    later = weft.load(checkpoint, "float32", "cpu", adapters={})
    later.load_adapter("one", adapters / "one")
    assert later.llm.adapters.names == ("one",)


def test_an_adapter_streams_and_chats(checkpoint, adapters):
    model = weft.load(checkpoint, "float32", "cpu", adapters={"one": adapters / "one"})
    whole = model.complete("中文 words", adapter="one", **GREEDY)[0].text
    assert "".join(model.stream("中文 words", adapter="one", **GREEDY)) == whole
    talk = [{"role": "user", "content": "好"}]
    assert model.chat(talk, adapter="one", **GREEDY) != model.chat(talk, **GREEDY)


def test_a_draft_and_no_speculation_change_no_answer(checkpoint, tmp_path, tiny_decoder, tiny_tokenizer):
    save_model(tmp_path / "draft", tiny_decoder(seed=3, num_hidden_layers=1), tiny_tokenizer)
    plain = weft.load(checkpoint, "float32", "cpu", speculation=False)
    assert plain.llm.stats().proposed == 0
    expected = plain.generate(PROMPT, **GREEDY)
    assert plain.llm.stats().proposed == 0
    drafted = weft.load(checkpoint, "float32", "cpu", draft=tmp_path / "draft")
    assert drafted.generate(PROMPT, **GREEDY) == expected
    assert drafted.llm.stats().proposed > 0


def test_a_cache_of_int8_holds_twice_as_much(checkpoint):
    model = weft.load(checkpoint, "float32", "cpu", cache_dtype="int8")
    assert str(model.llm.runner.pages.dtype) == "torch.int8"
    assert len(model.generate(PROMPT, **GREEDY)[0]) == len(PROMPT) + 12


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"cache_dtype": "int3"}, UsageError, "cache_dtype = 'int3'"),
        ({"draft": "x", "speculation": False}, UsageError, "would do nothing"),
        ({"draft": "nowhere"}, CheckpointError, "nowhere"),
        ({"adapters": {"a": "nowhere"}}, CheckpointError, "no adapter at nowhere"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(checkpoint, how, error, message):
    with pytest.raises(error, match=message):
        weft.load(checkpoint, "float32", "cpu", **how)


def test_the_command_line_reaches_them(checkpoint, adapters, tmp_path):
    base = [str(checkpoint), "--prompt", "中文", "--temperature", "0", "--max-new-tokens", "8"]
    base += ["--dtype", "float32", "--device", "cpu"]

    def text(*more):
        result = CliRunner().invoke(command, [*base, *more])
        assert result.exit_code == 0, result.output
        return result.stdout

    plain = text()
    assert text("--adapter", str(adapters / "one")) != plain
    assert text("--draft", str(checkpoint)) == plain
    assert text("--no-speculate") == plain
    assert text("--cache-dtype", "int8")
    assert text("--adapter", str(adapters / "two"), "--num-samples", "2") != plain

"""What an int8 cache costs: real figures of a small model, printed by the command."""

from __future__ import annotations

import json
import weakref

import pytest
import torch
from click.testing import CliRunner

from weft.checkpoint.huggingface import save_model
from weft.cli.main import main
from weft.core.errors import DataError
from weft.engine import LLM, SamplingParams
from weft.engine.cache_cost import cache_cost
from weft.engine.runner import Runner, prepare

TOKENS = [(7 * i * i + 3 * i) % 500 for i in range(300)]


@pytest.fixture
def model(tiny_decoder):
    return prepare(tiny_decoder(), torch.device("cpu"), torch.float32)


def test_the_losses_are_those_of_the_engine(model, tiny_tokenizer):
    *_, found = cache_cost(model, tiny_tokenizer, TOKENS)
    length = model.config.max_position_embeddings
    assert found.windows == len(TOKENS) // length > 1 and found.interval > 0
    params = SamplingParams(max_tokens=0, prompt_logprobs=0, temperature=0)
    for dtype, bits in ((None, found.own_bits_per_token), (torch.int8, found.int8_bits_per_token)):
        llm = LLM(model, tiny_tokenizer, cache_dtype=dtype)
        windows = [TOKENS[i * length : (i + 1) * length] for i in range(found.windows)]
        answers = llm.generate(windows, params)
        logs = [each.logprob for answer in answers for each in answer.prompt_logprobs[1:]]
        assert bits == pytest.approx(-sum(logs) / len(logs) / 0.6931471805599453, rel=1e-4)
    assert found.ratio != 1 and abs(found.ratio - 1) < 0.01
    assert found.int8_bytes_per_token < found.own_bytes_per_token


def test_the_scores_of_one_step_are_held_at_a_time(tiny_decoder, tiny_tokenizer, monkeypatch):
    """Those of a whole window of 20,000 tokens would be 12 GB with a usual vocabulary."""
    model = prepare(tiny_decoder(max_position_embeddings=1024), torch.device("cpu"), torch.float32)
    run, made, most = Runner.run, [], [0]

    def watched(runner, work):
        scores = run(runner, work)
        made.append(weakref.ref(scores))
        most[0] = max(most[0], sum(one() is not None for one in made))
        return scores

    monkeypatch.setattr(Runner, "run", watched)
    list(cache_cost(model, tiny_tokenizer, TOKENS * 3))
    assert len(made) == 2 * 8 and most[0] <= 2


def test_a_short_text_is_one_window_and_none_is_an_error(model, tiny_tokenizer):
    (found,) = cache_cost(model, tiny_tokenizer, TOKENS[:20])
    assert found.windows == 1 and found.interval is None
    with pytest.raises(DataError, match="fewer than two tokens"):
        next(cache_cost(model, tiny_tokenizer, [1]))


def test_the_command_prints_what_it_found(tiny_decoder, tiny_tokenizer, tmp_path):
    save_model(tmp_path / "model", tiny_decoder(), tiny_tokenizer)
    text = tmp_path / "text.txt"
    text.write_text("这产品非常好，我很满意。 A text in two languages. " * 20, encoding="utf-8")
    arguments = ["bench", "cache", str(tmp_path / "model"), str(text), "--dtype", "float32"]
    ended = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "record.json")])
    assert ended.exit_code == 0, ended.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["weights"] == "float32" and record["windows"] > 1
    assert f"{100 * (record['ratio'] - 1):+.3f} %" in ended.output
    text.write_bytes(b"\xff\xfe")
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 2 and "not UTF-8" in ended.output

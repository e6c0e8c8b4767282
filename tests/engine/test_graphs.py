"""Recorded steps with a stand-in that only runs the function again on the same buffers."""

from __future__ import annotations

import pytest
import torch
from tests.ops.flat import attend_tiles_plain

import weft.engine.llm
from weft.engine import LLM, SamplingParams
from weft.engine.cache import fit
from weft.engine.flat_step import sizes
from weft.engine.fused import FusedDecoder
from weft.engine.graphs import Graphs, captured_steps
from weft.engine.params import Grammar
from weft.engine.runner import prepare
from weft.engine.search import Beams
from weft.ops.flat_pages import FlatPages
from weft.ops.paged import Pages

CPU = torch.device("cpu")
SHAPES = {
    "qwen3": {"head_dim": 16},
    "window": {
        "head_dim": 16,
        "sliding_window": 21,
        "qk_norm": False,
        "architecture": "MistralForCausalLM",
    },
}
PROMPTS = [
    [(7 * i * i + 3 * i + 11 * n) % 500 for i in range(n)] for n in (5, 33, 1, 70, 16, 21, 48, 9, 90, 2)
]


def run_again(function):
    """A capture that records nothing."""
    function()
    return function


def flat(config, blocks, dtype, device):
    heads = (config.num_attention_heads, config.num_key_value_heads)
    window = config.sliding_window
    return FlatPages(
        config.num_hidden_layers, blocks, heads, config.head_dim, dtype, device, window, width=blocks + 1
    )


@pytest.fixture
def on_flat_pages(monkeypatch):
    """The engine as on a GPU, but for the compiler and the graphs."""
    monkeypatch.setattr("weft.ops.compiled.compiled", lambda function, dynamic: function)
    monkeypatch.setattr("weft.engine.flat_step.attend", attend_tiles_plain)
    monkeypatch.setattr(weft.engine.llm, "pages", flat)
    monkeypatch.setattr(
        weft.engine.llm,
        "captured_steps",
        lambda runner, most, budget: captured_steps(runner, most, budget, run_again),
    )


@pytest.fixture(params=SHAPES)
def make(request, tiny_decoder, tiny_tokenizer):
    def engine(fused=True, **settings):
        model = prepare(tiny_decoder(**SHAPES[request.param]), CPU, torch.float32)
        return LLM(FusedDecoder(model, "float32") if fused else model, tiny_tokenizer, **settings)

    return engine


def greedy(count, **more):
    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, **more)


def serve(engine, before=lambda engine, step: None):
    """Requests of many lengths that join while others leave; the tokens of each."""
    sequences = []
    for step in range(400):
        before(engine, step)
        if step < 3 * len(PROMPTS) and step % 3 == 0:
            count = 3 + 5 * (step // 3)
            sequences.append(
                engine.add(PROMPTS[step // 3], greedy(min(count, 125 - len(PROMPTS[step // 3]))))
            )
        engine.step()
        if step >= 3 * len(PROMPTS) and all(sequence.finished for sequence in sequences):
            return [sequence.generated for sequence in sequences]
    raise AssertionError("the requests do not end")


def test_sizes_are_a_ladder():
    assert sizes(1) == [1] and sizes(3) == [1, 2, 4] and sizes(9) == [1, 2, 4, 8, 16]
    assert sizes(100) == [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128]


@pytest.mark.parametrize("speculation", [False, True], ids=["", "speculation"])
@pytest.mark.parametrize("slots", [3, 12])
def test_requests_that_join_grow_and_leave_get_the_tokens_of_the_plain_engine(
    make, on_flat_pages, monkeypatch, speculation, slots
):
    engine = make(max_sequences=slots, speculation=speculation)
    found = serve(engine)
    assert engine.runner.captured.replays > 50
    monkeypatch.setattr(weft.engine.llm, "pages", lambda c, n, dtype, device: _pages(c, n, dtype))
    plain = make(fused=False, max_sequences=slots, speculation=speculation)
    assert plain.runner.captured is None
    assert found == serve(plain)


def _pages(config, blocks, dtype):
    heads = (config.num_attention_heads, config.num_key_value_heads)
    window = config.sliding_window
    return Pages(config.num_hidden_layers, blocks, heads, config.head_dim, dtype, CPU, window)


def test_the_scratch_block_takes_what_fills_up_and_no_other_block_changes(make, on_flat_pages):
    engine = make(max_sequences=3, speculation=False)
    sequences = [engine.add(prompt, greedy(20)) for prompt in PROMPTS[:3]]
    for _ in range(3):
        engine.step()
    pages, graphs = engine.runner.pages, engine.runner.captured
    for tensor in (*pages.keys, *pages.values):
        tensor[pages.scratch].zero_()
    before = [tensor.clone() for tensor in (*pages.keys, *pages.values)]
    replays = graphs.replays
    engine.step()
    assert graphs.replays == replays + 1
    written = {sequence.blocks[(len(sequence.tokens) - 2) // 16] for sequence in sequences}
    for old, new in zip(before, (*pages.keys, *pages.values), strict=True):
        changed = {int(block) for block in (old != new).flatten(1).any(1).nonzero()}
        assert changed == written | {pages.scratch}


def test_more_rows_than_the_largest_graph_go_as_they_did(make, on_flat_pages):
    engine = make(max_sequences=12, speculation=False)
    small = Graphs(engine.runner.model, engine.runner.pages, 4, run_again)
    engine.runner.captured = small
    for prompt in PROMPTS[:8]:
        engine.add(prompt, greedy(3))
    engine.step()
    engine.step()
    assert len(engine.scheduler.running) == 8 and small.replays == 0


def test_what_is_more_than_decoding_is_not_replayed(make, on_flat_pages):
    engine = make(max_sequences=4, speculation=False)
    graphs = engine.runner.captured
    engine.add(PROMPTS[1], greedy(1))
    engine.step()
    engine.embed([PROMPTS[0], [5]])
    assert graphs.replays == 0
    (answer,) = engine.generate([[7]], greedy(2, prompt_logprobs=1))
    assert len(answer.prompt_logprobs) == 1 and graphs.replays == 2


@pytest.mark.parametrize("kind", ["seeded", "grammar", "beams"])
def test_other_ways_to_choose_tokens_are_those_of_the_plain_engine(make, on_flat_pages, kind, monkeypatch):
    def ask(engine):
        if kind == "beams":
            return engine.search(PROMPTS[:2], Beams(max_tokens=24, beams=3, alternatives=3))
        more = {"grammar": Grammar("regex", "[a-c]{9}")} if kind == "grammar" else {"seed": 5, "top_p": 0.9}
        params = SamplingParams(temperature=0.7, max_tokens=20, logprobs=2, **{"seed": 1, **more})
        return [answer.tokens for answer in engine.generate(PROMPTS[:3], params)]

    engine = make(max_sequences=4)
    found = ask(engine)
    assert engine.runner.captured.replays
    monkeypatch.setenv("WEFT_GRAPHS", "off")
    plain = make(max_sequences=4)
    assert plain.runner.captured is None
    expected = ask(plain)
    if kind == "beams":
        found, expected = ([[one.tokens for one in answers] for answers in all] for all in (found, expected))
    assert found == expected


def test_a_capture_that_fails_or_differs_is_said_and_serving_goes_on(
    make, on_flat_pages, monkeypatch, caplog
):
    expected = serve(make(max_sequences=3))
    assert not caplog.records

    def refuses(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    def forgets(function):
        function()
        return lambda: None

    for capture, text in ((refuses, "not permitted"), (forgets, "differ")):
        caplog.clear()
        monkeypatch.setattr(
            weft.engine.llm,
            "captured_steps",
            lambda runner, most, budget, capture=capture: captured_steps(runner, most, budget, capture),
        )
        engine = make(max_sequences=3)
        assert engine.runner.captured is None
        (record,) = caplog.records
        assert text in record.getMessage() and "CUDA graphs are not in use here" in record.getMessage()
        assert serve(engine) == expected


def test_models_with_experts_and_processors_have_none(
    tiny_decoder, tiny_tokenizer, on_flat_pages, monkeypatch
):
    experts = {"architecture": "Qwen3MoeForCausalLM", "num_experts": 5, "num_experts_per_tok": 2}
    model = prepare(tiny_decoder(moe_intermediate_size=24, head_dim=16, **experts), CPU, torch.float32)
    engine = LLM(model, tiny_tokenizer)
    assert engine.runner.captured is None and isinstance(engine.runner.pages, FlatPages)
    assert len(engine.generate([[5, 6]], greedy(4))[0].tokens) == 4
    monkeypatch.undo()
    engine = LLM(model, tiny_tokenizer)
    assert engine.runner.captured is None and not isinstance(engine.runner.pages, FlatPages)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_with_the_compiler_too(tiny_decoder, tiny_tokenizer, monkeypatch):
    """One engine through compiled attention and compiled blocks, with few sizes."""
    model = prepare(tiny_decoder(head_dim=16), CPU, torch.float32)
    expected = LLM(model, tiny_tokenizer, max_sequences=2).generate(PROMPTS[:2], greedy(12))
    config = model.config
    block = Pages.block_bytes(config.num_hidden_layers, 2, 16, torch.float32)
    blocks, _ = fit(config, 2, torch.float32, 12 * block)
    assert blocks == 12
    monkeypatch.setattr(weft.engine.llm, "pages", flat)
    monkeypatch.setattr(
        weft.engine.llm,
        "captured_steps",
        lambda runner, most, budget: captured_steps(runner, 1, 100, run_again),
    )
    monkeypatch.setattr("weft.engine.graphs.sizes", lambda most: [2])
    model = FusedDecoder(prepare(tiny_decoder(head_dim=16), CPU, torch.float32), "float32")
    engine = LLM(model, tiny_tokenizer, max_sequences=2, cache_bytes=12 * block)
    found = engine.generate(PROMPTS[:2], greedy(12))
    assert engine.runner.captured.replays > 5
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]

"""Recorded steps with a stand-in that only runs the function again on the same buffers."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch
from tests.ops.flat import attend_tiles_plain

import weft.engine.llm
from weft.engine import LLM, SamplingParams, cache
from weft.engine.cache import fit
from weft.engine.flat_step import compare_paged, parts, sizes, tile_sizes
from weft.engine.fused import FusedDecoder
from weft.engine.graphs import Graphs, captured_steps, cuda_capture, step_sizes
from weft.engine.params import Grammar
from weft.engine.runner import prepare
from weft.engine.search import Beams
from weft.ops.flat_pages import FlatPages
from weft.ops.flex import LONE, TILE
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
    recorded = functools.partial(captured_steps, capture=run_again)
    monkeypatch.setattr(weft.engine.llm, "captured_steps", recorded)


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


def test_drafts_have_a_few_sizes_more():
    assert step_sizes(16, False) == sizes(17) and step_sizes(16, True) == [*sizes(17), 32, 64]
    assert step_sizes(1, True) == sizes(17)
    assert step_sizes(64, True) == [*sizes(64), 128] and step_sizes(200, True) == sizes(200)


def test_what_is_more_than_the_largest_size_goes_in_parts():
    assert parts(0, [4, 16]) == []
    assert parts(35, [4, 16]) == [(range(16), 16), (range(16, 32), 16), (range(32, 35), 4)]


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
    small = Graphs(engine.runner.model, engine.runner.pages, sizes(4), run_again)
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


@pytest.fixture
def noted(on_flat_pages, monkeypatch):
    """Whoever attends finds noted where each of the pages that it visits begins; counts the pages."""
    visited = [0]

    def attend(pages, layer, tiles, q):
        last = tiles.positions.view(*tiles.tables.shape[:2], -1).amax(-1)
        for position, table, count in zip(
            last.flatten().tolist(), tiles.tables.flatten(0, 1), tiles.counts.flatten().tolist(), strict=True
        ):
            if position >= 0:
                first = position // 16 + 1 - count
                assert pages.starts[table[:count]].tolist() == [16 * (first + n) for n in range(count)]
                visited[0] += count
        return attend_tiles_plain(pages, layer, tiles, q)

    monkeypatch.setattr("weft.engine.flat_step.attend", attend)
    return visited


@pytest.mark.parametrize("what", ["plain", "preempted", "recovered", "copies", "draft", "beams"])
def test_where_a_page_begins_is_noted_before_it_is_read(make, noted, tiny_decoder, monkeypatch, caplog, what):
    """A step notes its own pages only: in all that the engine does, those before them were noted earlier."""
    model = tiny_decoder(head_dim=16)
    more = {"cache_bytes": 10 * Pages.block_bytes(model.config.num_hidden_layers, 2, 16, torch.float32)}
    more = more if what == "preempted" else {"draft": model} if what == "draft" else {}
    monkeypatch.setattr("weft.engine.draft.pages", flat)
    recorded = functools.partial(captured_steps, capture=run_again)
    monkeypatch.setattr("weft.engine.draft.captured_steps", recorded)
    engine = make(max_sequences=4, **more)

    def disturb(engine, step):
        if what == "recovered" and step % 9 == 5:
            engine._half_done = True
        if what == "copies":
            engine.runner.pages.paged = step % 5 > 2

    if what == "beams":
        asked = [[*PROMPTS[3], n] for n in (1, 2, 3)]
        engine.search(asked, Beams(max_tokens=24, beams=3, alternatives=3))
    else:
        serve(engine, disturb)
        # Of these much is found: the pages are those of others.
        engine.generate([[*PROMPTS[3], *PROMPTS[n]] for n in (0, 2, 4)], greedy(20))
    # A step of any items would say a failed assertion and go on with copies.
    assert engine.runner.captured.replays > 5 and noted[0] > 1000 and not caplog.records
    assert bool(engine.scheduler.preemptions) == (what == "preempted")


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
            functools.partial(captured_steps, capture=capture),
        )
        engine = make(max_sequences=3)
        assert engine.runner.captured is None
        (record,) = caplog.records
        assert text in record.getMessage() and "CUDA graphs are not in use here" in record.getMessage()
        assert serve(engine) == expected


def test_the_graph_of_each_size_is_compared(make, on_flat_pages, monkeypatch, caplog):
    def forgets(function, broken):
        function()
        return (lambda: None) if function.args == (broken,) else function

    for broken in (1, 2, 24):
        caplog.clear()
        capture = functools.partial(forgets, broken=broken)
        monkeypatch.setattr(
            weft.engine.llm, "captured_steps", functools.partial(captured_steps, capture=capture)
        )
        assert make(max_sequences=3).runner.captured is None
        assert "differ" in caplog.text


@pytest.fixture
def forms(on_flat_pages, monkeypatch):
    """What attention was asked for: all that it would be compiled for anew."""
    found = set()

    def attend(pages, layer, tiles, q):
        tensors = (q, tiles.positions, tiles.tables, tiles.counts)
        found.add((*((tuple(x.shape), x.stride(), x.dtype) for x in tensors), tiles.height))
        return attend_tiles_plain(pages, layer, tiles, q)

    monkeypatch.setattr("weft.engine.flat_step.attend", attend)
    return found


@pytest.mark.parametrize("how", ["graphs", "off", "no capture", "experts"])
def test_no_step_needs_a_form_of_attention_that_was_not_compiled_at_start(
    tiny_decoder, tiny_tokenizer, forms, monkeypatch, how
):
    more = {"moe_intermediate_size": 24, "architecture": "Qwen3MoeForCausalLM"}
    more |= {"num_experts": 5, "num_experts_per_tok": 2}
    model = prepare(tiny_decoder(head_dim=16, **(more if how == "experts" else {})), CPU, torch.float32)
    prompts = [prompt[:9] for prompt in PROMPTS[3:9]]
    with monkeypatch.context() as plainly:
        plainly.setattr(weft.engine.llm, "pages", lambda c, n, dtype, device: _pages(c, n, dtype))
        plain = LLM(model, tiny_tokenizer, max_sequences=6, speculation=False)
        expected = [answer.tokens for answer in plain.generate(prompts, greedy(12))]
    if how == "off":
        monkeypatch.setenv("WEFT_GRAPHS", "off")
    if how == "no capture":
        monkeypatch.setattr(weft.engine.llm, "captured_steps", functools.partial(captured_steps, capture=1))
    served = model if how == "experts" else FusedDecoder(model, "float32")
    engine = LLM(served, tiny_tokenizer, max_sequences=6, token_budget=64)
    assert (engine.runner.captured is not None) == (how == "graphs")
    known = set(forms)
    # 48 rows alone, where 24 is the largest size; and 6 tiles, where 4 are.
    engine._speculator._plan = lambda *given: 7
    engine._speculator._proposer.propose = lambda sequences, count: [(1,) * 7] * len(sequences)
    sequences = [engine.add(prompt, greedy(12)) for prompt in prompts]
    engine.add_text(PROMPTS[8])
    while engine.scheduler.busy:
        engine.step()
    assert forms == known and engine.runner.pages.paged
    assert [tuple(sequence.generated) for sequence in sequences] == expected


@pytest.mark.parametrize("blocks", [1, 3, 40])
def test_every_size_of_call_is_compared(forms, monkeypatch, caplog, blocks):
    def empty():
        return FlatPages(1, blocks, (4, 2), 16, torch.float32, CPU, width=blocks + 1)

    pages = empty()
    compare_paged(pages, sizes(16), 300)
    calls = [(size, 1, LONE) for size in sizes(16)] + [(1, size * TILE, TILE) for size in tile_sizes(10)]
    assert {(q[0][0], q[0][2], height) for q, *_, height in forms} == set(calls)
    assert pages.paged and not caplog.records
    for wrong in calls:

        def attend(pages, layer, tiles, q, wrong=wrong):
            off = 0.1 * ((q.shape[0], q.shape[2], tiles.height) == wrong)
            return attend_tiles_plain(pages, layer, tiles, q) + off

        monkeypatch.setattr("weft.engine.flat_step.attend", attend)
        caplog.clear()
        pages = empty()
        compare_paged(pages, sizes(16), 300)
        assert not pages.paged and "other results" in caplog.text and len(caplog.records) == 1


def test_attention_that_cannot_be_compared_is_not_used(make, on_flat_pages, monkeypatch, caplog):
    expected = serve(make(max_sequences=3))

    def has_no_memory(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("weft.engine.flat_step.attend", has_no_memory)
    engine = make(max_sequences=3)
    assert engine.runner.captured is None and not engine.runner.pages.paged
    (record,) = caplog.records
    assert "out of memory" in record.getMessage() and "copies" in record.getMessage()
    assert serve(engine) == expected


def test_a_recording_that_fails_leaves_the_usual_stream(monkeypatch):
    """What PyTorch does: it ends the recording, which raises, before it takes its stream away again."""

    class Stream:
        def __init__(self, device):
            pass

        def wait_stream(self, other):
            pass

    usual = Stream(CPU)
    now = [usual]

    @contextlib.contextmanager
    def stream(other):
        now.append(other)
        yield
        now.pop()

    @contextlib.contextmanager
    def graph(recorded, pool, stream):
        now.append(stream)
        try:
            yield
        finally:
            if broken:
                raise RuntimeError("operation failed due to a previous error during capture")
        now.pop()

    stand_ins = {
        "graph_pool_handle": object,
        "Stream": Stream,
        "CUDAGraph": lambda: type("Recorded", (), {"replay": lambda self: None})(),
        "current_stream": lambda device: now[-1],
        "set_stream": now.append,
        "stream": stream,
        "graph": graph,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for broken in (False, True):
        capture = cuda_capture(CPU)
        with pytest.raises(RuntimeError, match="previous error") if broken else contextlib.nullcontext():
            capture(lambda: None)
        assert now[-1] is usual


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


def test_a_cache_that_kernels_cannot_count_is_read_through_copies(tiny_decoder, monkeypatch, caplog):
    monkeypatch.setattr("weft.engine.cache.FlatPages", lambda *given, **more: "flat")
    monkeypatch.setattr("weft.engine.cache.Pages", lambda *given, **more: "copies")
    config, most = tiny_decoder(head_dim=16).config, 2**31 // (16 * 2 * 16)
    made = functools.partial(cache.pages, config, dtype=torch.float32, device=torch.device("cuda"))
    assert made(blocks=most - 2) == "flat" and not caplog.records
    assert made(blocks=most - 1) == "copies" and "too large" in caplog.text


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
        lambda runner, most, budget, drafts: captured_steps(runner, 1, 100, drafts, run_again),
    )
    monkeypatch.setattr("weft.engine.graphs.step_sizes", lambda most, drafts: [2])
    model = FusedDecoder(prepare(tiny_decoder(head_dim=16), CPU, torch.float32), "float32")
    engine = LLM(model, tiny_tokenizer, max_sequences=2, cache_bytes=12 * block)
    found = engine.generate(PROMPTS[:2], greedy(12))
    assert engine.runner.captured.replays > 5
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]

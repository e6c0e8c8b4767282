"""Number formats by measurement: each choice is taken, computes what it says, and is remembered."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from weft.core.errors import UsageError
from weft.engine import LLM, SamplingParams
from weft.engine import formats as module
from weft.engine.formats import ROWS, choose, fastest, figures_file, time_products
from weft.engine.runner import best_dtype
from weft.engine.weights import MEASURED, PackedDecoder, for_inference, matrix_shapes
from weft.ops.attention import PackedRows
from weft.ops.kernels import decoder
from weft.ops.packed import Format, pack, stand_in

CPU = torch.device("cpu")
BASE = Format.FLOAT32 if best_dtype(CPU) is torch.float32 else Format.BFLOAT16
EXPERTS = {
    "architecture": "Qwen3MoeForCausalLM",
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "mlp_only_layers": (0,),
}
pytestmark = pytest.mark.skipif(decoder() is None, reason="needs a C++ compiler")


def timer(winner, other=None, shape=None):
    """Measures that ``winner`` is the fastest, and for ``shape`` that ``other`` is."""

    def measure(asked, matrices, forms, seconds):
        best = other if asked == shape else winner
        return {form: {rows: 1e-6 * rows * (1 + (form is not best)) for rows in ROWS} for form in forms}

    return measure


def scores(model, seed=3):
    tokens = torch.randint(0, 500, (2, 30), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return model.logits(model(tokens, PackedRows(torch.zeros_like(tokens, dtype=torch.int32))))


@pytest.mark.parametrize("shape", [{}, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("winner", [BASE, Format.INT8, Format.INT4], ids=lambda form: form.name)
def test_what_is_fastest_is_taken_and_equals_the_format_asked_for_by_name(tiny_decoder, winner, shape):
    chosen = for_inference(tiny_decoder(**shape), CPU, "auto-int4", measure=timer(winner))
    assert {choice.form for choice in chosen.choices} == {winner}
    assert chosen.number_format == winner.name.lower()
    named = PackedDecoder(tiny_decoder(**shape), winner, best_dtype(CPU))
    assert torch.equal(scores(chosen), scores(named))


def test_int4_is_taken_only_where_the_name_allows_it(tiny_decoder):
    chosen = for_inference(tiny_decoder(), CPU, "auto-int8", measure=timer(Format.INT4))
    assert chosen.number_format == BASE.name.lower()
    assert all(Format.INT4 not in choice.figures for choice in chosen.choices)


def test_each_shape_has_its_own_format_and_rows_stay_independent(tiny_decoder, tiny_tokenizer):
    shapes = matrix_shapes(tiny_decoder())
    assert shapes == {(512, 32): 1, (64, 32): 2, (32, 32): 2, (128, 32): 2, (32, 64): 2}
    measure = timer(Format.INT8, BASE, shape=(128, 32))
    model = for_inference(tiny_decoder(), CPU, "auto-int8", measure=measure)
    assert {choice.shape: choice.form for choice in model.choices} == {
        shape: BASE if shape == (128, 32) else Format.INT8 for shape in shapes
    }
    assert model.number_format == f"{BASE.name.lower()}+int8"
    layer, named = model._steps.layers[0], for_inference(tiny_decoder(), CPU, "int8")
    assert (layer.qkv.format, layer.feed.gate_up.format) == (Format.INT8, BASE)
    assert not torch.equal(scores(model), scores(named))
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=2)
    prompts = [list(range(60)), [5], list(range(7, 30)), [9] * 17]

    def run(engine, asked):
        sequences = [engine.add(prompt, params) for prompt in asked]
        while engine.scheduler.busy:
            engine.step()
        return [(sequence.generated, sequence.logprobs) for sequence in sequences]

    together = run(LLM(model, tiny_tokenizer, token_budget=23), prompts)
    assert together == [run(LLM(model, tiny_tokenizer), [prompt])[0] for prompt in prompts]


@pytest.mark.parametrize(
    ("one", "sixteen", "taken"),
    [(0.5, 0.5, Format.INT8), (0.5, 1.01, BASE), (1.01, 0.2, BASE), (1.0, 0.99, Format.INT8), (1, 1, BASE)],
)
def test_never_what_is_slower_for_some_number_of_rows(one, sixteen, taken):
    figures = {BASE: {1: 1.0, 16: 1.0}, Format.INT8: {1: one, 16: sixteen}}
    assert fastest(figures, (BASE, Format.INT8)) is taken


def test_figures_are_kept_and_used_again(tmp_path, caplog):
    file, asked = tmp_path / "a" / "figures.json", []

    def measure(shape, matrices, forms, seconds):
        asked.append(shape)
        return timer(Format.INT8)(shape, matrices, forms, seconds)

    caplog.set_level(logging.INFO, "weft.engine")
    first = choose({(64, 32): 3}, (BASE, Format.INT8), measure, file)
    again = choose({(64, 32): 3}, (BASE, Format.INT8), measure, file)
    assert first == again and asked == [(64, 32)]
    assert caplog.messages[0] == f"Weights {first[64, 32]}"
    assert (
        "64 x 32: int8 (µs for 1 and 16 rows: " in caplog.messages[0]
        and "int8 1 and 16" in caplog.messages[0]
    )
    choose({(64, 32): 3, (32, 64): 1}, (BASE, Format.INT8), measure, file)
    choose({(64, 32): 3}, (BASE, Format.INT8, Format.INT4), measure, file)
    assert asked == [(64, 32), (32, 64), (64, 32)]
    choose({(64, 32): 3, (32, 64): 1}, (BASE, Format.INT8), measure, file)
    assert len(asked) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'{"64x32x3": 5}',
        b'{"64x32x3": {"INT8": {"1": 1e-6}}}',
        b'{"64x32x3": {"INT9": {"1": 1e-6, "16": 1e-6}}}',
        b'{"64x32x3": {"INT8": {"1": "x", "16": 1e-6}}}',
        b'{"64x32x3": {"INT8": {"1": NaN, "16": -1.0}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path, content):
    file = tmp_path / "figures.json"
    file.write_bytes(content)
    found = choose({(64, 32): 3}, (BASE, Format.INT8), timer(BASE), file)
    assert found[64, 32].form is BASE
    assert json.loads(file.read_text())["64x32x3"]["INT8"]["1"] > 0


def test_a_folder_that_takes_no_file_does_not_matter(tmp_path):
    (tmp_path / "blocked").write_text("x")
    found = choose({(64, 32): 3}, (BASE, Format.INT8), timer(BASE), tmp_path / "blocked" / "figures.json")
    assert found[64, 32].form is BASE


def test_the_machine_is_measured_once_for_all_loads(tiny_decoder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "SECONDS", 0.05)
    first = for_inference(tiny_decoder(), CPU, "auto-int4")
    assert figures_file().is_relative_to(tmp_path) and figures_file().exists()
    monkeypatch.setattr(module, "time_products", None)
    again = for_inference(tiny_decoder(), CPU, "auto-int4")
    assert first.choices == again.choices and len(first.choices) == 5
    assert torch.equal(scores(first), scores(again))


@pytest.mark.parametrize("form", Format)
def test_products_are_timed_and_a_stand_in_has_the_size_of_a_packed_matrix(form):
    for outputs, inputs in ((70, 45), (32, 64), (1, 1)):
        found, real = stand_in(outputs, inputs, form), pack([torch.ones(outputs, inputs)], form)
        assert found.data.nbytes == real.data.nbytes and found.format is form
        assert (found.scale is None) == (real.scale is None)
    figures = time_products((70, 45), 3, (form,), 0.0)
    assert set(figures) == {form} and all(seconds > 0 for seconds in figures[form].values())


def test_without_a_compiler_nothing_is_measured(tiny_decoder, monkeypatch):
    monkeypatch.setattr("weft.engine.weights.decoder", lambda: None)
    model = for_inference(tiny_decoder(), CPU, "auto-int8", measure=timer(Format.INT8))
    assert not isinstance(model, PackedDecoder) and model.number_format == BASE.name.lower()


@pytest.mark.parametrize("name", MEASURED)
def test_gpus_are_refused(tiny_decoder, name):
    with pytest.raises(UsageError, match=f"{name} weights are for processors only"):
        for_inference(tiny_decoder(), torch.device("cuda"), name)

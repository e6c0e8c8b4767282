"""Products with packed weights: equal to their plain twins, and a row never depends on the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from weft.core.errors import ConfigError, ResourceError
from weft.ops.kernels import decoder
from weft.ops.packed import Format, pack
from weft.ops.quantise import (
    QuantisedLinear,
    dequantise_int4,
    linear_int4_plain,
    linear_int8_plain,
    quantise_int4,
    quantise_rows,
)
from weft.ops.step import Heads, PackedFeed, PackedLayer, Steps, gates_and_values

native = pytest.mark.skipif(decoder() is None, reason="needs a C++ compiler")
SHAPES = [(32, 32), (96, 64), (70, 37), (5, 130), (300, 172)]


@pytest.fixture(autouse=True, params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def steps(width: int = 256) -> Steps:
    """The smallest decoder with buffers for matrices of up to ``width``."""
    square = pack([torch.zeros(width, width)], Format.FLOAT32)
    qkv = pack([torch.zeros(3 * width, width)], Format.FLOAT32)
    feed = PackedFeed(pack([torch.zeros(2 * width, width)], Format.FLOAT32), square)
    layer = PackedLayer(qkv, square, feed, torch.ones(width), torch.ones(width))
    return Steps([layer], torch.ones(width), square, Heads(2, 2, width // 2), 1e-6, torch.float32)


def plain(form: Format, x, weight, bias):
    if form is Format.INT8:
        return linear_int8_plain(x, *quantise_rows(weight), bias)
    if form is Format.INT4:
        return linear_int4_plain(x, *quantise_int4(weight), bias)
    if form is Format.BFLOAT16:
        x, weight = x.bfloat16().float(), weight.bfloat16().float()
    return F.linear(x, weight, bias)


@native
@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_equals_its_plain_twin(form, shape):
    N, K = shape
    generator = torch.Generator().manual_seed(N)
    weight, x, bias = (torch.randn(s, generator=generator) for s in ((N, K), (7, K), (N,)))
    found = steps().product(pack([weight[: N // 2], weight[N // 2 :]], form, [bias, None]), x)
    expected = plain(form, x, weight, bias)
    if form in (Format.INT8, Format.INT4):
        assert torch.equal(found, expected)  # whole numbers add up exactly
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * K**0.5)


@native
@pytest.mark.parametrize("form", Format)
def test_a_row_is_bitwise_the_same_in_any_company(form):
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(s, generator=generator) for s in ((150, 172), (200, 172)))
    matrix, run = pack([weight], form), steps()
    together = run.product(matrix, x)
    for rows in (*range(1, 65), 192, 193):
        assert torch.equal(run.product(matrix, x[:rows]), together[:rows]), rows
        assert torch.equal(run.product(matrix, x[-rows:]), together[-rows:]), rows


@native
@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("inner", [16, 50, 112])
def test_swiglu_is_made_within_its_product_or_behind_it(form, inner):
    """Its gates and values stand by sixteen in turn where that is possible, which 50 is not."""
    width, generator = 96, torch.Generator().manual_seed(inner)
    gate, up, down = (
        torch.randn(s, generator=generator) / 8 for s in ((inner, width),) * 2 + ((width, inner),)
    )
    x, run = torch.randn(70, width, generator=generator), steps(width)
    x[5, 3], x[6] = float("nan"), 0.0
    feed = PackedFeed(pack(gates_and_values(gate, up), form), pack([down], form))
    together = run.feed(feed, x)
    expected = plain(form, F.silu(plain(form, x, gate, None)) * plain(form, x, up, None), down, None)
    sound = [row for row in range(70) if row != 5]
    assert together[5].isnan().all()
    bound = 1e-5 if form is Format.FLOAT32 else 0.02
    assert (together - expected)[sound].norm() <= bound * expected[sound].norm()
    for rows in (*range(1, 5), 8, 13, 16, 17, 32, 33, 64):
        assert torch.equal(run.feed(feed, x[6 : 6 + rows]), together[6 : 6 + rows]), rows


@native
@pytest.mark.parametrize("form", Format)
def test_what_is_not_a_number_stays_in_its_row(form):
    weight, x = torch.ones(40, 64), torch.ones(3, 64)
    x[1, 5], x[2, 7] = float("nan"), 0.0
    found = steps().product(pack([weight], form), x)
    assert found[1].isnan().all()
    assert found[0].isfinite().all() and found[2].isfinite().all()


@native
def test_rows_of_zeros_give_zeros():
    for form in Format:
        assert steps().product(pack([torch.zeros(9, 40)], form), torch.zeros(2, 40)).abs().sum() == 0


def test_a_matrix_too_long_for_exact_sums_is_refused():
    with pytest.raises(ConfigError, match="65537 inputs"):
        pack([torch.zeros(1, 65537)], Format.INT8)


def test_int8_rounds_to_half_a_step_and_keeps_the_largest():
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    q, scale = quantise_rows(x)
    assert ((q * scale[:, None] - x).abs() <= 0.501 * scale[:, None]).all()
    assert (q.abs().amax(1) == 127).all()


def test_int4_rounds_to_a_step_and_uses_all_values():
    x = torch.randn(6, 70, generator=torch.Generator().manual_seed(1))
    q, scales = quantise_int4(x)
    assert q.shape == (6, 96) and scales.shape == (6, 3) and q.min() == -8 and q.max() == 7
    steps = scales.float().abs().repeat_interleave(32, 1)[:, :70]
    # +8 steps does not exist: what lies there is off by up to a whole step.
    assert ((dequantise_int4(q, scales)[:, :70] - x).abs() <= 1.01 * steps).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_layer_is_close_to_its_layer(bits):
    layer = torch.nn.Linear(64, 48)
    x = torch.randn(2, 3, 64)
    found, expected = QuantisedLinear(layer, bits)(x), layer(x)
    assert found.shape == expected.shape
    assert (found - expected).norm() < (0.02 if bits == 8 else 0.2) * expected.norm()


def test_without_the_library_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr("weft.ops.step.decoder", lambda: None)
    with pytest.raises(ResourceError, match="install g\\+\\+"):
        steps()

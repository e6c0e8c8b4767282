"""Products whose rows do not depend on each other, to the last bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from weft.ops.geglu import geglu, geglu_plain
from weft.ops.linear import linear, linear_rows, linear_tiles, row_invariant

SIZES = [(8, 16), (32, 5), (33, 70), (256, 100), (1536, 64), (4864, 96), (96, 1000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_rows_changes_no_bit(dtype, inputs, outputs, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(67, inputs, generator=generator).to(dtype)
        weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
        bias = torch.randn(outputs, generator=generator).to(dtype)
        whole = linear_rows(x, weight, bias)
        tolerance = {"rtol": 1e-2, "atol": 0.5} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-3}
        torch.testing.assert_close(whole, F.linear(x, weight, bias), **tolerance)
        for size in (1, 2, 3, 5, 16, 33):
            assert torch.equal(torch.cat([linear_rows(part, weight, bias) for part in x.split(size)]), whole)
        assert torch.equal(linear_rows(x.flip(0), weight, bias).flip(0), whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_the_plain_twin_is_near_and_independent_of_rows_too(inputs, outputs):
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(rows, inputs, generator=generator) for rows in (37, outputs))
    plain = linear_tiles(x, weight, None)
    torch.testing.assert_close(plain, linear_rows(x, weight, None), rtol=1e-4, atol=1e-3)
    assert torch.equal(torch.cat([linear_tiles(part, weight, None) for part in x.split(3)]), plain)


def test_it_is_in_force_only_where_asked_for_and_never_with_gradients():
    x, weight = torch.randn(3, 40), torch.randn(8, 40, requires_grad=True)
    with row_invariant():
        linear(x, weight, None).sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        outside = linear(x, weight, None)
        with row_invariant():
            inside = linear(x.view(1, 3, 40), weight, None)
        assert inside.shape == (1, 3, 8)
        assert torch.equal(outside, F.linear(x, weight))
        assert torch.equal(inside[0], linear_rows(x, weight, None))


def test_no_rows_at_all():
    for dtype in (torch.float32, torch.bfloat16):
        empty = torch.empty(0, 16, dtype=dtype)
        assert linear_rows(empty, torch.randn(4, 16).to(dtype), None).shape == (0, 4)
    with row_invariant(), torch.inference_mode():
        for shape in ((0, 8), (2, 0, 8)):
            assert linear(torch.empty(shape), torch.ones(3, 8), None).shape == (*shape[:-1], 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kernels", ["native", "plain"])
def test_the_gate_of_a_row_does_not_depend_on_others(dtype, kernels, monkeypatch):
    if kernels == "plain":
        monkeypatch.setattr("weft.ops.geglu.serving", lambda name: None)
    gate, up = (4 * torch.randn(2, 7, 75)).to(dtype)
    with torch.no_grad(), row_invariant():
        whole = geglu(gate, up)
        pieces = zip(gate.split(2), up.split(2), strict=True)
        assert torch.equal(torch.cat([geglu(*piece) for piece in pieces]), whole)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(whole, geglu_plain(gate, up), rtol=tolerance, atol=tolerance)

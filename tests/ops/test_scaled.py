"""fp8 and int8 layers for GPUs against products with the numbers that they stand for."""

from __future__ import annotations

import pytest
import torch

from weft.ops import float8
from weft.ops.quantise import linear_int8_plain, quantise_rows
from weft.ops.scaled import Float8, Int8

KINDS = {"fp8": Float8, "int8": Int8}


def inputs(rows=5, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(rows, 48) * torch.logspace(-3, 2, rows)[:, None]
    weights = [torch.randn(32, 48).to(dtype), torch.randn(16, 48).to(dtype) * 30]
    return x.to(dtype), weights


def stood_for(kind, rows):
    """The numbers that rounded ``rows`` stand for, fp32."""
    if kind == "fp8":
        small, scale = float8.quantise(rows)
        return small.float() * scale
    whole, scales = quantise_rows(rows)
    return whole.float() * scales[:, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 5, 17, 32, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_product_is_that_of_the_numbers_it_stands_for(kind, rows, dtype):
    x, weights = inputs(rows, dtype)
    biases = [torch.randn(32).to(dtype), None]
    found = KINDS[kind](weights, biases)(x.unsqueeze(0))[0]
    wide = torch.cat(weights)
    expected = stood_for(kind, x) @ stood_for(kind, wide).T + torch.cat([biases[0].float(), torch.zeros(16)])
    assert found.dtype == dtype and found.shape == (rows, 48)
    # fp8 products give bf16, whose half step is a 256th.
    bound = 1e-5 if kind == "int8" and dtype is torch.float32 else 1e-2
    assert ((found.float() - expected).abs() <= bound * expected.abs().amax(-1, keepdim=True)).all()


def test_int8_is_its_plain_twin_to_the_bit():
    x, weights = inputs()
    q, scales = quantise_rows(torch.cat(weights))
    assert torch.equal(Int8(weights, [None, None])(x), linear_int8_plain(x, q, scales))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_no_number_shows_and_its_neighbours_do_not(kind):
    x, weights = inputs()
    x[2, 7] = float("nan")
    found = KINDS[kind](weights, [None, None])(x)
    assert found[2].isnan().all() and found[[0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes_than_multiples_of_16_are_refused(kind):
    with pytest.raises(ValueError, match="multiples of 16"):
        KINDS[kind]([torch.randn(32, 50)], [None])
    with pytest.raises(ValueError, match="multiples of 16"):
        KINDS[kind]([torch.randn(31, 48)], [None])

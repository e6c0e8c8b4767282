"""fp8 products: the kernel against its plain twin, gradients against bf16, and how near training stays."""

from __future__ import annotations

import pytest
import torch
from tests.parallel.parity import Case, train

from weft.core.errors import ConfigError, ResourceError
from weft.models import Decoder, DecoderConfig
from weft.ops import arithmetic
from weft.ops.float8 import float8_linear, product, product_plain, quantise
from weft.ops.linear import linear
from weft.parallel import float8


def test_the_product_is_that_of_its_plain_twin() -> None:
    torch.manual_seed(0)
    for rows, inner, columns in ((1, 16, 16), (33, 64, 48), (128, 512, 256)):
        left = torch.randn(rows, inner).bfloat16() * torch.logspace(-6, 3, rows)[:, None].bfloat16()
        right = torch.randn(columns, inner).bfloat16()
        expected = product_plain(left, right).float()
        torch.testing.assert_close(product(left, right).float(), expected, rtol=8e-3, atol=1e-6)
    assert product(torch.zeros(2, 16).bfloat16(), right[:16, :16].contiguous()).count_nonzero() == 0


def test_rounding_is_that_of_four_bits() -> None:
    torch.manual_seed(0)
    rows = torch.randn(64, 256).bfloat16()
    small, scale = quantise(rows)
    # Three bits behind the leading one: half a step is a sixteenth, but for what lies near zero.
    assert ((small.float() * scale - rows.float()).abs() <= rows.float().abs() / 16 + scale / 512).all()


def test_gradients_are_near_those_of_bf16_and_weights_get_theirs_unrounded() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 24, 64).bfloat16()
    weight, bias = torch.randn(48, 64), torch.randn(48)
    out = torch.randn(2, 24, 48).bfloat16()
    found = []
    for multiply in (float8_linear, linear):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, weight, bias)]
        result = multiply(*leaves)
        result.backward(out)
        found.append([result, *(leaf.grad for leaf in leaves)])
    for mine, theirs in zip(*found, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        assert (mine - theirs).float().norm() < 0.05 * theirs.float().norm()
    torch.testing.assert_close(found[0][2], found[1][2])


def test_training_in_fp8_stays_near_training_in_bf16() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices of this size take longer on several
    plain, _ = train("", Case(rate=0.003, steps=40, dtype="bfloat16"))
    rounded, _ = train("", Case(rate=0.003, steps=40, dtype="bfloat16", float8=True))
    torch.set_num_threads(threads)
    assert rounded != plain and plain[-1] < 0.65 * plain[0]
    assert rounded == pytest.approx(plain, rel=0.03)


def test_what_cannot_be_cut_into_sixteens_stays_as_it_is() -> None:
    shape = {"vocab_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    wide = Decoder(DecoderConfig(hidden_size=32, intermediate_size=40, head_dim=8, **shape))
    float8.apply(wide, True)
    block = wide.blocks[0]
    assert block.attention.q.product is float8_linear
    assert block.feed_forward.up.product is linear and block.attention.k.product is linear
    assert wide.output is None or wide.output.product is linear
    narrow = Decoder(DecoderConfig(hidden_size=24, intermediate_size=40, head_dim=8, **shape))
    with pytest.raises(ConfigError, match="multiples of 16"):
        float8.apply(narrow, True)


def test_a_gpu_without_it_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ResourceError, match=r"compute capability 8\.0.*begins with 8\.9"):
        arithmetic.choose(torch.device("cuda"), "fp8")
    here = arithmetic.choose(torch.device("cpu"), "fp8")
    assert here.name == "fp8" and here.dtype == torch.bfloat16 and "in software" in here.reason

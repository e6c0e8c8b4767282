"""Every fused kernel against its plain twin, values and gradients, in fp32 and bf16."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from weft.ops.kernels import address, kernels
from weft.ops.norm import rms_norm, rms_norm_plain
from weft.ops.rope import inverse_frequencies, rotation
from weft.ops.rotary import normed_rotary, normed_rotary_plain
from weft.ops.swiglu import swiglu, swiglu_plain

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_twins(fast: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    results = []
    for function in (fast, plain):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        out.backward(draw(*out.shape, seed=9).to(out.dtype))
        results.append([out, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None and theirs is not None
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        difference = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert difference < TOLERANCE[inputs[0].dtype]


@DTYPES
def test_rms_norm(dtype: torch.dtype) -> None:
    x, weight = draw(3, 17, 80).to(dtype), draw(80, seed=1)
    check_twins(lambda x, w: rms_norm(x, w, 1e-6), lambda x, w: rms_norm_plain(x, w, 1e-6), x, weight)


@DTYPES
def test_swiglu(dtype: torch.dtype) -> None:
    check_twins(swiglu, swiglu_plain, draw(5, 33).to(dtype), 30 * draw(5, 33, seed=1).to(dtype))


@DTYPES
def test_rotary_with_and_without_norm(dtype: torch.dtype) -> None:
    x, weight = draw(2, 9, 3, 32).to(dtype), draw(32, seed=1)
    cos, sin = rotation(torch.arange(9).expand(2, 9), inverse_frequencies(32, 1e4))
    check_twins(
        lambda x, w: normed_rotary(x, w, 1e-6, cos, sin),
        lambda x, w: normed_rotary_plain(x, w, 1e-6, cos, sin),
        x,
        weight,
    )
    check_twins(
        lambda x: normed_rotary(x, None, 1e-6, cos, sin),
        lambda x: normed_rotary_plain(x, None, 1e-6, cos, sin),
        x,
    )


def test_nan_is_never_hidden() -> None:
    x = draw(2, 8)
    x[0, 3] = float("nan")
    assert rms_norm(x, torch.ones(8), 1e-6)[0].isnan().all()
    assert swiglu(x, torch.ones(2, 8))[0, 3].isnan()


def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(4, 16)
    fast = rms_norm(x, torch.ones(16), 1e-6)
    monkeypatch.setenv("WEFT_KERNELS", "off")
    kernels.cache_clear()
    try:
        assert kernels().status.startswith("off")
        assert torch.allclose(rms_norm(x, torch.ones(16), 1e-6), fast, atol=1e-6)
    finally:
        monkeypatch.undo()
        kernels.cache_clear()


def test_a_broken_compiler_is_reported_not_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.cache_clear()
    try:
        assert "do not build" in kernels().status
    finally:
        monkeypatch.undo()
        kernels.cache_clear()


def test_a_pointer_keeps_its_tensor_alive() -> None:
    x = draw(3)
    alive = weakref.ref(x)
    pointer = address(x)
    del x
    assert pointer.value is not None and alive() is not None


def test_gradients_that_are_views_are_read_right() -> None:
    x, weight = draw(2, 64, 4, 64).requires_grad_(), draw(64, seed=1)
    wide = draw(2, 64, 4, 128, seed=2)
    dx = [
        torch.autograd.grad(rms_norm(x, weight, 1e-6), x, g)[0]
        for g in (wide[..., :64], wide[..., :64].clone())
    ]
    assert torch.equal(*dx)

"""The chunked cross entropy against the whole one, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch

from weft.core.errors import DataError
from weft.ops.loss import IGNORED, cross_entropy_plain, losses_and_gradient, summed_cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [7, 16, 1024])
def test_chunks_equal_the_whole(dtype: torch.dtype, chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 16, generator=generator).to(dtype)
    weight = torch.randn(100, 16, generator=generator)
    targets = torch.randint(0, 100, (50,), generator=generator)
    targets[[3, 20]] = IGNORED
    results = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss = summed_cross_entropy(h, w, targets, 1 / 48, chunk)
        else:
            loss = cross_entropy_plain(h, w, targets).sum() / 48
        loss.backward()
        results.append((loss, h.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert (ours.float() - theirs.float()).norm() <= tolerance * theirs.float().norm()


def test_the_value_is_the_same_without_gradients() -> None:
    hidden, weight = torch.randn(9, 8), torch.randn(20, 8)
    targets = torch.arange(9)
    with torch.no_grad():
        quiet = summed_cross_entropy(hidden, weight, targets, 0.5, 4)
    loud = summed_cross_entropy(hidden.requires_grad_(), weight, targets, 0.5, 4)
    assert math.isclose(quiet.item(), loud.item(), rel_tol=1e-5)


def test_the_kernel_equals_its_plain_twin() -> None:
    logits = 10 * torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 39, IGNORED, 5, 5, 7])
    leaf = logits.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(leaf, targets, ignore_index=IGNORED, reduction="none")
    (2.0 * expected.sum()).backward()
    for layout in (logits.clone(), logits.t().contiguous().t()):
        losses = losses_and_gradient(layout, targets, 2.0)
        assert torch.allclose(losses, expected.detach(), atol=1e-5)
        assert leaf.grad is not None and torch.allclose(layout, leaf.grad, atol=1e-5)


@pytest.mark.parametrize("targets", [torch.tensor([[4, 9], [8, 9]])[:, 0], torch.tensor([4, 8]).int()])
def test_targets_may_lie_apart_or_be_of_another_width(targets: torch.Tensor) -> None:
    logits = torch.randn(2, 10, generator=torch.Generator().manual_seed(2))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([4, 8]), reduction="none")
    assert torch.allclose(losses_and_gradient(logits.clone(), targets, 1.0), expected, atol=1e-5)


def test_a_nan_logit_makes_a_nan_loss() -> None:
    logits = torch.zeros(1, 10)
    logits[0, 4] = float("nan")
    assert losses_and_gradient(logits, torch.tensor([2]), 1.0).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_target_that_is_no_token_is_an_error(dtype: torch.dtype) -> None:
    logits, targets = torch.randn(3, 100).to(dtype), torch.tensor([5, IGNORED, 100])
    with pytest.raises((DataError, IndexError, RuntimeError), match=r"100|index"):
        losses_and_gradient(logits, targets, 1.0)

"""Experts: the sorted, segmented path equals the plain one with masks, forward and backward."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops import grouped
from weft.ops.experts import Order, expert_rows, experts_plain, gather, load, weighted_sum
from weft.ops.grouped import grouped_linear, grouped_linear_plain

N, K, X, E, W = 37, 3, 7, 16, 24


def drawn(dtype: torch.dtype, *shape: int, scale: float = 0.3) -> Tensor:
    return (torch.randn(shape) * scale).to(dtype).requires_grad_()


def routing(kind: str) -> Tensor:
    """int64 [N, K], distinct experts in a row: as they fall, or leaving some without any token."""
    scores = torch.rand(N, X)
    if kind == "empty":
        scores[:, [0, 3, 6]] -= 2.0
    if kind == "crowded":
        scores[:, 2] += 2.0
    return scores.topk(K).indices


def experts_fast(x: Tensor, index: Tensor, share: Tensor, *weights: Tensor) -> Tensor:
    order = Order(index)
    rows = expert_rows(order.sort(x), load(index, X), *weights)
    return weighted_sum(order.unsort(rows), share)


@pytest.mark.parametrize("kind", ["even", "empty", "crowded"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_sorted_segments_equal_masks(kind: str, dtype: torch.dtype, most: float) -> None:
    torch.manual_seed(0)
    index, share = routing(kind), torch.rand(N, K).requires_grad_()
    inputs = [drawn(dtype, N, E, scale=1.0), share]
    inputs += [drawn(torch.float32, X, W, E), drawn(torch.float32, X, W, E), drawn(torch.float32, X, E, W)]
    upstream = torch.randn(N, E)
    results = []
    for path in (experts_plain, experts_fast):
        out = path(inputs[0], index, *inputs[1:])
        gradients = torch.autograd.grad((out.float() * upstream).sum(), inputs)
        results.append([out.detach(), *gradients])
    for plain, fast in zip(*results, strict=True):
        assert plain.dtype == fast.dtype
        scale = max(float(plain.float().abs().max()), 1.0)
        assert float((plain.float() - fast.float()).abs().max()) <= most * scale


def test_one_expert_is_a_plain_feed_forward() -> None:
    torch.manual_seed(1)
    x, gate, up, down = torch.randn(N, E), torch.randn(1, W, E), torch.randn(1, W, E), torch.randn(1, E, W)
    out = experts_plain(x, torch.zeros(N, 1, dtype=torch.int64), torch.ones(N, 1), gate, up, down)
    expected = (F.silu(x @ gate[0].T) * (x @ up[0].T)) @ down[0].T
    torch.testing.assert_close(out, expected)


def looped(x: Tensor, w: Tensor, offs: Tensor) -> Tensor:
    """What torch.nn.functional.grouped_mm is documented to do: 2-D by 3-D, and 2-D by 2-D."""
    bounds = list(pairwise([0, *offs.tolist()]))
    if w.ndim == 3:
        return torch.cat([x[a:b] @ w[i] for i, (a, b) in enumerate(bounds)])
    return torch.stack([x[:, a:b] @ w[a:b] for a, b in bounds])


@pytest.mark.parametrize("kernel", ["loop", "all at once", "all at once, as documented"])
def test_grouped_linear_equals_its_twin(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call for GPUs is made on the CPU, where PyTorch has it too, for its arguments and gradients."""
    torch.manual_seed(2)
    monkeypatch.setattr(grouped, "has_kernel", lambda x, w: kernel != "loop")
    if "documented" in kernel:
        monkeypatch.setattr(F, "grouped_mm", lambda x, w, offs: looped(x, w, offs))
    counts = torch.tensor([5, 0, 11, 0, 0, 1, 7])
    x, weight = drawn(torch.float32, 24, 16), drawn(torch.float32, X, 8, 16)
    upstream = torch.randn(24, 8)
    results = []
    for path in (grouped_linear_plain, grouped_linear):
        out = path(x, weight, counts)
        results.append([out, *torch.autograd.grad((out * upstream).sum(), (x, weight))])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(plain, fast)


def test_no_rows_at_all() -> None:
    x, weight = drawn(torch.float32, 0, 16), drawn(torch.float32, X, 8, 16)
    out = grouped_linear(x, weight, torch.zeros(X, dtype=torch.int64))
    out.sum().backward()
    assert out.shape == (0, 8)
    assert weight.grad is not None and not weight.grad.any()


@pytest.mark.parametrize("chosen", [1, 3])
def test_no_tokens_at_all(chosen: int) -> None:
    """As on a rank whose experts nobody chose."""
    x, share = drawn(torch.float32, 0, E), torch.rand(0, chosen)
    weights = drawn(torch.float32, X, W, E), drawn(torch.float32, X, W, E), drawn(torch.float32, X, E, W)
    out = experts_fast(x, torch.zeros(0, chosen, dtype=torch.int64), share, *weights)
    out.sum().backward()
    assert out.shape == x.grad.shape == (0, E)
    assert all(not weight.grad.any() for weight in weights)


def test_gather_sums_gradients_of_all_copies() -> None:
    index = torch.tensor([[2, 0], [1, 2], [0, 1]])
    order = Order(index)
    x = drawn(torch.float64, 3, 4)
    assert torch.autograd.gradcheck(lambda v: gather(v, order.order_M // 2, order.place_NK), (x,))
    assert torch.equal(order.unsort(order.sort(x)), x.unsqueeze(1).expand(3, 2, 4))
    assert torch.equal(load(index, 4), torch.tensor([2, 2, 2, 0]))

"""Attention over ranges of keys with its log-sum-exp: fast paths, parts that are merged, autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weft.ops import spans as module
from weft.ops.attention import attention_plain, packed_spans
from weft.ops.spans import Spans, merge, spans_backward, spans_forward, spans_plain, spans_plain_backward

SHAPES = [(4, 4, 32), (4, 2, 64), (3, 1, 96)]


def draw(S: int, U: int, heads: int, groups: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, S, heads, size), (2, U, groups, size), (2, U, groups, size), (2, S, heads, size)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def ragged(S: int, U: int) -> Spans:
    """Any ranges, some of them empty, some past the keys' middle."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(0, U, (2, S), generator=generator)
    length = torch.randint(-3, U // 2, (2, S), generator=generator)
    first[:, :70] = U  # A whole block of queries that sees nothing.
    return Spans.of(first, (first + length).clamp(max=U))


def near(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert (ours.float() - theirs.float()).norm() <= tolerance * theirs.float().norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("heads", "groups", "size"), SHAPES)
@pytest.mark.parametrize("chunk", [64, 256])
def test_fast_paths_equal_the_reference(
    heads: int, groups: int, size: int, dtype: torch.dtype, tolerance: float, chunk: int, monkeypatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    *inputs, grad = draw(150, 130, heads, groups, size, dtype)
    spans = ragged(150, 130)
    exact = [x.float() for x in inputs]
    out, lse = spans_plain(*exact, spans)
    fast, fast_lse = spans_forward(*inputs, spans)
    near(fast, out, tolerance)
    blind = (spans.first_BS >= spans.end_BS).unsqueeze(1).expand_as(lse)
    assert torch.equal(fast_lse == float("-inf"), blind) and torch.equal(lse == float("-inf"), blind)
    assert (fast_lse - lse)[~blind].abs().max() < tolerance
    theirs = spans_plain_backward(grad.float(), *exact, out, lse, spans)
    ours = spans_backward(grad, *inputs, fast, fast_lse, spans)
    for a, b in zip(ours, theirs, strict=True):
        near(a, b, tolerance)


@pytest.mark.parametrize("window", [None, 16])
def test_the_reference_is_autograd_of_packed_attention(window: int | None) -> None:
    *inputs, grad = draw(60, 60, 4, 2, 16, torch.float32)
    start = torch.zeros(2, 60, dtype=torch.int32)
    start[0, 23:] = 23
    leaves = [x.requires_grad_() for x in inputs]
    expected = attention_plain(*leaves, start, window)
    expected.backward(grad)
    spans = Spans.of(*packed_spans(start, window))
    with torch.no_grad():
        out, lse = spans_plain(*leaves, spans)
        gradients = spans_plain_backward(grad, *leaves, out, lse, spans)
    near(out, expected, 1e-6)
    for ours, leaf in zip(gradients, leaves, strict=True):
        assert leaf.grad is not None
        near(ours, leaf.grad, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_parts_merge_to_the_whole_and_share_its_gradients(dtype: torch.dtype, tolerance: float) -> None:
    q, k, v, grad = draw(60, 60, 4, 2, 32, dtype)
    start = torch.zeros(2, 60, dtype=torch.int32)
    start[0, 40:] = 40
    first, end = packed_spans(start, None)
    whole, lse = spans_plain(q.float(), k.float(), v.float(), Spans.of(first, end))
    # The last keys first: so that queries of the second half have seen a key before the merge.
    cuts = [(0, 30), (30, 60)]
    parts = [Spans.of((first - a).clamp(0, b - a), (end - a).clamp(0, b - a)) for a, b in cuts]
    out, logs = (x.float() for x in spans_forward(q, k[:, :30], v[:, :30], parts[0]))
    late_out, late_logs = (x.float() for x in spans_forward(q, k[:, 30:], v[:, 30:], parts[1]))
    rows = slice(0, 30)
    early, early_logs = out[:, rows].clone(), logs[..., rows].clone()
    merge(early, early_logs, late_out[:, rows], late_logs[..., rows])
    near(early, whole[:, rows], tolerance)
    rows = slice(30, 60)
    late, logs_of_late = late_out[:, rows].clone(), late_logs[..., rows].clone()
    merge(late, logs_of_late, out[:, rows], logs[..., rows])
    near(late, whole[:, rows], tolerance)
    merged = torch.cat([early, late], 1).to(dtype), torch.cat([early_logs, logs_of_late], -1)
    near(merged[1], lse, tolerance)
    expected = spans_plain_backward(
        grad.float(), q.float(), k.float(), v.float(), whole, lse, Spans.of(first, end)
    )
    shares = [
        spans_backward(grad, q, k[:, a:b], v[:, a:b], *merged, part)
        for (a, b), part in zip(cuts, parts, strict=True)
    ]
    near(shares[0][0].float() + shares[1][0].float(), expected[0], tolerance)
    near(torch.cat([share[1] for share in shares], 1), expected[1], tolerance)
    near(torch.cat([share[2] for share in shares], 1), expected[2], tolerance)


def test_tiles_leave_out_what_no_query_sees(monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    first, end = torch.tensor([[0, 0, 5, 5, 3, 2]]), torch.tensor([[4, 4, 5, 1, 6, 4]])
    tiles = Spans.of(first, end).tiles
    assert [tuple(tile) for tile in tiles] == [(0, 2, 0, 4, True), (4, 6, 2, 6, False)]
    assert Spans.of(first, torch.zeros_like(end)).blind


def test_a_not_a_number_is_not_hidden() -> None:
    q, k, v, _ = draw(8, 8, 1, 1, 16, torch.float32)
    q[0, 3, 0, 0] = float("nan")
    spans = Spans.of(*packed_spans(torch.zeros(2, 8), None))
    for path in (spans_plain, spans_forward):
        out, _ = path(q, k, v, spans)
        assert out[0, 3].isnan().all() and not out[1].isnan().any()

"""Attention over packed documents: the fast paths against the reference that writes every score out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weft.ops.attention import (
    PackedRows,
    attention,
    attention_causal,
    attention_plain,
    attention_sdpa,
    repeat_heads,
    visible,
)


def starts(T: int, *rows: list[int]) -> Tensor:
    out = torch.zeros(len(rows), T, dtype=torch.int32)
    for row, begins in zip(out, rows, strict=True):
        for begin in begins:
            row[begin:] = begin
    return out


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 4, 32), (4, 2, 64), (3, 1, 96)])
@pytest.mark.parametrize("path", [attention, attention_sdpa])
def test_fast_paths_equal_the_reference(path, heads: int, groups: int, size: int, window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    T = 150
    start = starts(T, [37, 64, 65, 149], [0])
    q, k, v = (torch.randn(2, T, n, size, generator=generator).bfloat16() for n in (heads, groups, groups))
    grad = torch.randn(2, T, heads, size, generator=generator)
    exact = [x.float().requires_grad_() for x in (q, k, v)]
    reference = attention_plain(*exact, start, window)
    reference.backward(grad)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = path(*leaves, start, window)
    out.backward(grad.bfloat16())
    for ours, theirs in [(out, reference), *((a.grad, b.grad) for a, b in zip(leaves, exact, strict=True))]:
        assert (ours.float() - theirs).norm() / theirs.norm() < 1e-2


def test_padding_documents_of_one_token_see_only_themselves() -> None:
    T = 70
    start = starts(T, [0])
    start[0, 60:] = torch.arange(60, 70, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, T, 2, 32, generator=generator).bfloat16() for _ in range(3))
    out = attention(q, k, v, start)
    assert torch.equal(out[:, 60:], v[:, 60:])


def test_visible_is_causal_within_documents() -> None:
    mask = visible(starts(5, [2]), window=2)[0].int().tolist()
    assert mask == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_positions_restart_with_each_document() -> None:
    context = PackedRows(starts(6, [4]))
    assert context.positions(torch.zeros(1, 6, dtype=torch.long)).tolist() == [[0, 1, 2, 3, 0, 1]]


@pytest.mark.parametrize(
    ("window", "dtype"), [(None, torch.float32), (64, torch.float32), (None, torch.bfloat16)]
)
def test_rows_of_one_document_need_no_mask(window: int | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 64, n, 32, generator=generator).to(dtype) for n in (4, 2, 2))
    start = starts(64, [], [])
    found = PackedRows(start, window, whole=True).attend(0, q, k, v)
    reference = attention_plain(q, k, v, start, window)
    assert found.dtype == dtype and (found - reference).float().norm() < 1e-2 * reference.float().norm()
    assert not PackedRows(start, 63, whole=True).causal and not PackedRows(start).causal
    grouped = attention_causal(q, k, v)
    repeated = attention_causal(q, *repeat_heads(k, v, 4))
    torch.testing.assert_close(grouped, repeated)


@pytest.mark.parametrize("what", ["q", "k", "infinite k"])
def test_what_is_no_number_shows_to_who_sees_it(what: str) -> None:
    noise = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 80, 2, 32, generator=noise).bfloat16() for _ in range(3))
    (q if what == "q" else k)[0, 70] = float("inf") if what == "infinite k" else float("nan")
    first = torch.zeros(1, 80, dtype=torch.int32)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = attention(*leaves, first)
    assert torch.equal(out.isnan(), attention_plain(q, k, v, first).isnan())
    assert out[0, 70].isnan().all() and not out[0, :70].isnan().any()
    gradient = torch.autograd.grad(out[0, 70].sum(), leaves[0])[0]
    assert gradient[0, 70].isnan().any()

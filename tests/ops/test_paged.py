"""Paged attention: each path against attention over packed rows, and bitwise in any pieces."""

from __future__ import annotations

import pytest
import torch

from weft.ops.attention import attention_plain
from weft.ops.kernels import serving
from weft.ops.page_layout import PAGE, Item, Layout
from weft.ops.paged import Pages, attend_gathered, attend_plain, quantise
from weft.ops.relative import biased_attention_plain

SHAPES = {
    "grouped": (6, 2, 24, None),
    "many in a group": (14, 1, 64, None),
    "alone": (3, 3, 8, None),
    "window": (4, 2, 40, 37),
    "narrow window": (4, 4, 16, 3),
}
LENGTH = 210


def pages_of(shape, cache, model=torch.float32, blocks=32):
    H, G, D, window = SHAPES[shape]
    return Pages(1, blocks, (H, G), D, cache, torch.device("cpu"), window)


def inputs(shape, dtype, seed=0, length=LENGTH):
    H, G, D, _ = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, heads, D, generator=generator).to(dtype) for heads in (H, G, G)]


def attend(pages, q, k, v, pieces, blocks):
    """One sequence in pieces of the given sizes."""
    outs, past = [], 0
    for size in pieces:
        rows = slice(past, past + size)
        layout = Layout([Item(0, size, past, blocks)], torch.device("cpu"))
        outs.append(pages.attend(0, layout, q[rows], k[rows], v[rows]))
        past += size
    return torch.cat(outs)


BLOCKS = [29, 3, 17, 0, 8, 22, 5, 11, 30, 2, 14, 9, 26, 1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_paths_equal_attention_over_packed_rows(shape, dtype):
    q, k, v = inputs(shape, dtype)
    window = SHAPES[shape][3]
    start = torch.zeros(1, LENGTH, dtype=torch.int32)
    expected = attention_plain(*(x.unsqueeze(0) for x in (q, k, v)), start, window)[0]
    pages = pages_of(shape, dtype)
    layout = Layout([Item(0, LENGTH, 0, BLOCKS)], torch.device("cpu"))
    tolerance = {"rtol": 0, "atol": 2e-6 if dtype is torch.float32 else 2e-2}
    torch.testing.assert_close(pages.attend(0, layout, q, k, v), expected, **tolerance)
    for path in (attend_plain, attend_gathered):
        torch.testing.assert_close(path(pages, 0, layout, q), expected, **tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("cache", ["same", "int8"])
@pytest.mark.parametrize("kernels", ["native", "plain"])
def test_pieces_change_no_bit(shape, model, cache, kernels, monkeypatch):
    if kernels == "plain":
        monkeypatch.setattr("weft.ops.paged.serving", lambda name: None)
    length = LENGTH if kernels == "native" else 50
    q, k, v = inputs(shape, model, length=length)
    pages = pages_of(shape, torch.int8 if cache == "int8" else model)
    whole = attend(pages, q, k, v, [length], BLOCKS)
    for size in (1, 7, 16, 33):
        pieces = [size] * (length // size) + [length % size] * (length % size > 0)
        assert torch.equal(attend(pages, q, k, v, pieces, BLOCKS), whole)


def test_company_and_places_change_no_bit():
    pages = pages_of("grouped", torch.float32, blocks=64)
    own, other = inputs("grouped", torch.float32, 1), inputs("grouped", torch.float32, 2)
    alone = attend(pages, *own, [100, 1], BLOCKS[:8])[:101]
    elsewhere = [40 + place for place in range(8)]
    attend(pages, *own, [100], elsewhere)
    attend(pages, *other, [150], BLOCKS[:10])
    items = [Item(0, 60, 90, BLOCKS[:10]), Item(60, 1, 100, elsewhere)]
    rows = [torch.cat((b[90:150], a[100:101])) for a, b in zip(own, other, strict=True)]
    mixed = pages.attend(0, Layout(items, torch.device("cpu")), *rows)
    assert torch.equal(mixed[60], alone[100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("past", [0, 90], ids=["around", "back"])
def test_bias_by_distance_and_rows_that_see_all(dtype, past):
    """``past`` 0: all rows see all 150 keys; else each sees itself and what is before it."""
    pages = Pages(1, 32, (3, 3), 8, dtype, torch.device("cpu"), scale=1.0)
    q, k, v = (x[:150] for x in inputs("alone", dtype))
    bias = torch.randn(3, 41, generator=torch.Generator().manual_seed(7))
    store = Layout([Item(0, 150, 0, BLOCKS)], torch.device("cpu"))
    pages.store(0, store, k, v)
    key, query = torch.arange(150), torch.arange(past, 150)
    added = bias[:, (key - query.unsqueeze(-1)).clamp(-20, 20) + 20]
    if past:
        added = added.masked_fill(key > query.unsqueeze(-1), float("-inf"))
    heads = (x.float().transpose(0, 1) for x in (q[past:], k, v))
    expected = biased_attention_plain(*heads, added).transpose(0, 1)
    item = Item(0, 150 - past, past, BLOCKS, seen=0 if past else 150)
    layout = Layout([item], torch.device("cpu"), bias=bias, stored=False)
    tolerance = {"rtol": 0, "atol": 5e-6 if dtype is torch.float32 else 3e-2}
    whole = pages.attend(0, layout, q[past:])
    torch.testing.assert_close(whole.float(), expected, **tolerance)
    for path in (attend_plain, attend_gathered):
        torch.testing.assert_close(path(pages, 0, layout, q[past:]).float(), expected, **tolerance)
    # One row among others, at any place in the step.
    row = 37
    items = [Item(0, 5, past, BLOCKS, seen=item.seen), Item(5, 1, past + row, BLOCKS, seen=item.seen)]
    mixed = Layout(items, torch.device("cpu"), bias=bias, stored=False)
    found = pages.attend(0, mixed, torch.cat([q[past : past + 5], q[past + row : past + row + 1]]))
    assert torch.equal(found, torch.cat([whole[:5], whole[row : row + 1]]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("cache", [torch.float32, torch.int8], ids=["fp32", "int8"])
def test_copies_of_many_sequences_equal_the_plain_path(shape, bias, cache):
    """Single tokens, drafts, a prompt and rows that see a whole source; places never written hold NaN."""
    H, _, D, _ = SHAPES[shape]
    pages = pages_of(shape, cache, blocks=128)
    if cache is torch.float32:
        for tensor in (*pages.keys, *pages.values):
            tensor.fill_(float("nan"))
    counts, pasts = [1, 1, 4, 8, 30, 1, 2], [0, 17, 60, 5, 33, 200, 1]
    free = iter(torch.randperm(128, generator=torch.Generator().manual_seed(3)).tolist())
    items, first = [], 0
    for number, (count, past) in enumerate(zip(counts, pasts, strict=True)):
        blocks = [next(free) for _ in range((past + count + PAGE - 1) // PAGE)]
        _, k, v = inputs(shape, torch.float32, seed=number, length=past + count)
        pages.store(0, Layout([Item(0, past + count, 0, blocks)], torch.device("cpu")), k, v)
        items.append(Item(first, count, past, blocks, seen=past + count if number == 2 else 0))
        first += count
    added = torch.randn(H, 41, generator=torch.Generator().manual_seed(7)) if bias else None
    layout = Layout(items, torch.device("cpu"), bias=added, stored=False)
    assert sorted(len(batch.rows) for batch in layout.batches)[-1] >= 2
    q = torch.randn(first, H, D, generator=torch.Generator().manual_seed(1))
    found = attend_gathered(pages, 0, layout, q)
    torch.testing.assert_close(found, attend_plain(pages, 0, layout, q), rtol=0, atol=5e-6)


def test_what_was_never_written_is_never_read():
    """Stale places may hold NaN: of a request that was damaged, say."""
    for window in ("grouped", "window"):
        pages = pages_of(window, torch.float32)
        for tensor in (*pages.keys, *pages.values):
            tensor.fill_(float("nan"))
        q, k, v = inputs(window, torch.float32)
        assert torch.isfinite(attend(pages, q, k, v, [70, 1, 1, 80, 58], BLOCKS)).all()


def test_a_nan_is_not_hidden():
    pages = pages_of("alone", torch.float32)
    q, k, v = inputs("alone", torch.float32)
    k[5, 1, 3] = float("nan")
    out = attend(pages, q, k, v, [LENGTH], BLOCKS)
    assert torch.isfinite(out[:5]).all() and torch.isnan(out[5:, 1]).all()
    assert torch.isfinite(out[5:, 0]).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cache", [torch.float32, torch.bfloat16, torch.int8], ids=["fp32", "bf16", "int8"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("path", ["native", "plain", "copies"])
def test_what_is_no_number_reaches_those_that_see_it_and_nobody_else(shape, cache, broken, path, monkeypatch):
    """A guess of a damaged model, say: what stands before it is right all the same."""
    if path != "native":
        monkeypatch.setattr("weft.ops.paged._kernel", lambda q, dtype: None)
    if path == "copies":
        monkeypatch.setattr("weft.ops.paged.attend_plain", attend_gathered)
    H, G, _, window = SHAPES[shape]
    model = torch.float32 if cache is torch.int8 else cache
    q, k, v = inputs(shape, model)
    # In one piece, so that others of the same tile stand before it.
    right = attend(pages_of(shape, cache), q, k, v, [LENGTH], BLOCKS)
    # At the edges of blocks and of the 64 keys that the kernel takes at once, and all of those.
    for places in ([0], [21], [62], [63], [64], [15, 79, 127], range(64), [LENGTH - 1]):
        broken_k, broken_v = (x.clone() for x in (k, v))
        sees = torch.zeros(LENGTH, H, dtype=torch.bool)
        for place in places:
            broken_v[place, 0, 3] = broken
            broken_k[place, 0, 1] = broken
            sees[place : None if window is None else place + window, : H // G] = True
        found = attend(pages_of(shape, cache), q, broken_k, broken_v, [LENGTH], BLOCKS)
        assert found.isnan().all(-1)[sees].all(), places
        assert torch.equal(found[~sees], right[~sees]), places


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_near_and_its_native_path_near_the_plain_one(shape):
    q, k, v = inputs(shape, torch.float32)
    exact = attend(pages_of(shape, torch.float32), q, k, v, [LENGTH], BLOCKS)
    pages = pages_of(shape, torch.int8)
    layout = Layout([Item(0, LENGTH, 0, BLOCKS)], torch.device("cpu"))
    near = pages.attend(0, layout, q, k, v)
    assert 0 < float((near - exact).abs().max()) < 0.06
    torch.testing.assert_close(near, attend_plain(pages, 0, layout, q), rtol=0, atol=2e-6)
    torch.testing.assert_close(near, attend_gathered(pages, 0, layout, q), rtol=0, atol=2e-6)


def test_int8_keeps_zeros_and_the_largest_number():
    x = torch.zeros(1, 2, 8)
    x[0, 1, 3] = -5.0
    whole, scale = quantise(x)
    assert whole[0, 0].tolist() == [0] * 8 and int(whole[0, 1, 3]) == -127
    assert float(scale[0, 1]) * -127 == pytest.approx(-5.0)


def test_the_cache_takes_memory_only_as_it_is_written():
    block = Pages.block_bytes(1, 4, 64, torch.float32)
    assert block == PAGE * 4 * (64 + 64) * 4
    pages = Pages(1, 2_000_000, (4, 4), 64, torch.float32, torch.device("cpu"))
    assert pages.keys[0].numel() * 4 * 2 == 2_000_000 * block > 2**35


def test_the_native_library_builds_here():
    """On machines with a compiler, as those of CI are; elsewhere the plain path serves."""
    assert serving("paged") is not None and serving("rows") is not None

"""Paged attention through flex_attention, compiled for this processor, against the plain reference."""

from __future__ import annotations

import random

import pytest
import torch
from tests.ops.flat import CPU, filled

from weft.engine.flat_step import FlatStep
from weft.ops.compiled import plainly
from weft.ops.page_layout import Item, Layout
from weft.ops.paged import attend_gathered, attend_plain

# PyTorch's compiler imports what PyTorch itself calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
SHAPES = {
    "grouped": ((4, 2), 16, None),
    "seven in a group": ((14, 2), 16, None),
    "window": ((4, 4), 16, 21),
}


def items_of(tables, lengths, counts):
    """The last ``counts`` rows of each sequence."""
    items, first = [], 0
    for table, length, count in zip(tables, lengths, counts, strict=True):
        items.append(Item(first, count, length - count, table))
        first += count
    return items


def compare(pages, items, seed):
    rows = sum(item.count for item in items)
    q = torch.randn(rows, pages.H, pages.D, generator=torch.Generator().manual_seed(seed))
    found = FlatStep(pages, items).mixed(0, q)
    expected = attend_plain(pages, 0, Layout(items, CPU, stored=False), q)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)
    assert pages.paged
    with plainly():
        torch.testing.assert_close(FlatStep(pages, items).mixed(0, q), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_drafts_and_chunks_of_random_layouts_equal_the_plain_path(shape):
    """Every layout has single tokens, drafts and chunks; sizes are few, since each is compiled."""
    heads, head_dim, window = SHAPES[shape]
    for seed in range(4):
        chosen = random.Random(seed)
        lengths = [chosen.randint(1, 60), chosen.randint(30, 110), chosen.randint(70, 130), 40]
        counts = [1, chosen.randint(9, 30), chosen.randint(9, 70), chosen.randint(1, 4)]
        pages, tables = filled(heads, head_dim, lengths, window, seed=seed)
        compare(pages, items_of(tables, lengths, counts), seed)


def test_blocks_that_sequences_share_lie_at_the_same_place_of_each():
    pages, (table, own) = filled((4, 2), 16, [40, 20])
    shared = Item(1, 1, 50, [*table[:2], *own])
    # As if it had written them itself, behind what it shares.
    pages.place(torch.tensor(own) * 16, torch.tensor([32, 48]))
    compare(pages, [Item(0, 1, 39, table), shared], 0)


def test_a_value_that_is_no_number_shows_to_who_sees_it_and_to_nobody_else():
    pages, tables = filled((4, 2), 16, [20, 9])
    broken = torch.randn(1, 2, 16)
    broken[0, 1, 3] = float("inf")
    layout = Layout([Item(0, 1, 9, tables[1])], CPU)
    pages.store(0, layout, torch.randn(1, 2, 16), broken)
    items = [Item(0, 1, 19, tables[0]), Item(1, 1, 8, tables[1]), Item(2, 1, 9, tables[1])]
    q = torch.randn(3, 4, 16)
    copied = attend_gathered(pages, 0, Layout(items, CPU), q)
    assert copied[2, 2:].isnan().all()
    # A processor's flex_attention makes zeros of scores that are NaN: tests/gpu asks a GPU's.
    for found in (copied, FlatStep(pages, items).mixed(0, q)):
        assert found[:2].isfinite().all() and found[2, :2].isfinite().all()


def test_a_failure_is_said_once_and_copies_serve(monkeypatch, caplog):
    def fails(*arguments):
        raise RuntimeError("no such kernel\nand pages more")

    monkeypatch.setattr("weft.engine.flat_step.attend", fails)
    pages, tables = filled((4, 2), 16, [20])
    q = torch.randn(1, 4, 16)
    for _ in range(2):
        found = FlatStep(pages, [Item(0, 1, 19, tables[0])]).mixed(0, q)
    layout = Layout([Item(0, 1, 19, tables[0])], CPU, stored=False)
    torch.testing.assert_close(found, attend_plain(pages, 0, layout, q), rtol=0, atol=5e-6)
    (record,) = caplog.records
    assert "RuntimeError: no such kernel" in record.getMessage() and "copies" in record.getMessage()

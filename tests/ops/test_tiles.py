"""Matrix tiles (AMX) give the bits of vectors: products in int8 and bf16, attention over a bf16 cache."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from weft.core.hardware import probe
from weft.ops.kernels import decoder, serving
from weft.ops.linear import linear_rows
from weft.ops.packed import Format, pack
from weft.ops.page_layout import PAGE, Item, Layout
from weft.ops.paged import Pages, attend_plain
from weft.ops.step import Heads, PackedFeed, PackedLayer, Steps, gates_and_values

pytestmark = pytest.mark.skipif(
    decoder() is None or not {"amx_tile", "amx_int8", "amx_bf16"} <= set(probe().instruction_sets),
    reason="needs a compiler and a processor with AMX",
)
MATRICES = [(96, 64), (70, 37), (300, 1024), (64, 3072), (33, 1000)]
ROWS = [1, 5, 16, 17, 40, 192, 200]
HEADS = {
    "two": (4, 2, 64, None),
    "many": (14, 1, 96, None),
    "window": (8, 2, 128, 100),
    "odd": (6, 2, 40, None),
}
LENGTH = 210
PIECES = ([LENGTH], [1] * 20 + [17] * 11 + [3], [33, 100, 77])


def steps_for(width: int, feed: PackedFeed | None = None) -> Steps:
    square = pack([torch.zeros(64, width)], Format.FLOAT32)
    feed = feed or PackedFeed(square, square)
    layer = PackedLayer(square, square, feed, torch.ones(width), torch.ones(width))
    return Steps([layer], torch.ones(width), square, Heads(2, 2, 32), 1e-6, torch.float32)


def products() -> dict[tuple[int, ...], torch.Tensor]:
    steps = steps_for(3072)
    found = {}
    for form in (Format.INT8, Format.BFLOAT16):
        for N, K in MATRICES:
            generator = torch.Generator().manual_seed(N + K)
            weight, x, bias = (torch.randn(s, generator=generator) for s in ((N, K), (max(ROWS), K), (N,)))
            for biases in ((), (bias,)):
                matrix = pack([weight], form, biases)
                for rows in ROWS:
                    found[int(form), N, K, len(biases), rows] = steps.product(matrix, x[:rows])
                    if form is Format.BFLOAT16:
                        given = (x[:rows].bfloat16(), weight.bfloat16())
                        added = bias.bfloat16() if biases else None
                        found[-1, N, K, len(biases), rows] = linear_rows(*given, added)
    return found


def attention() -> dict[tuple[str, int], torch.Tensor]:
    found = {}
    for name, (H, G, D, window) in HEADS.items():
        generator = torch.Generator().manual_seed(D)
        q, k, v = (torch.randn(LENGTH, heads, D, generator=generator).bfloat16() for heads in (H, G, G))
        for number, pieces in enumerate(PIECES):
            pages = Pages(1, 20, (H, G), D, torch.bfloat16, torch.device("cpu"), window)
            for tensor in (*pages.keys, *pages.values):
                tensor.fill_(float("nan"))
            outs, past = [], 0
            for size in pieces:
                layout = Layout([Item(0, size, past, BLOCKS)], torch.device("cpu"))
                rows = slice(past, past + size)
                outs.append(pages.attend(0, layout, q[rows], k[rows], v[rows]))
                past += size
            found[name, number] = torch.cat(outs)
        whole = Layout([Item(0, LENGTH, 0, BLOCKS)], torch.device("cpu"))
        found[name, -1] = attend_plain(pages, 0, whole, q)
    return found


def tiny_rows() -> torch.Tensor:
    """Products of numbers near the smallest: what is below the normal ones is zero in both."""
    matrix = pack([torch.randn(64, 128, generator=torch.Generator().manual_seed(0))], Format.INT8)
    x = torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    scales = torch.tensor([1e-30, 1e-36, 1e-37, 1e-38]).unsqueeze(-1)
    return steps_for(128).product(matrix, x * scales)


def feeds() -> dict[tuple[int, ...], torch.Tensor]:
    """SwiGLU within its product and, for 50, behind it."""
    found = {}
    for form in (Format.INT8, Format.BFLOAT16):
        for inner in (112, 50):
            generator = torch.Generator().manual_seed(inner)
            sizes = ((inner, 64), (inner, 64), (64, inner), (max(ROWS), 64))
            gate, up, down, x = (torch.randn(size, generator=generator) for size in sizes)
            feed = PackedFeed(pack(gates_and_values(gate, up), form), pack([down], form))
            for rows in ROWS:
                found[int(form), inner, rows] = steps_for(64, feed).feed(feed, x[:rows])
    return found


BLOCKS = [19, 3, 17, 0, 8, 5, 11, 2, 14, 9, 16, 1, 7, 4]
assert len(BLOCKS) * PAGE >= LENGTH


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What this process computes, and what one computes that leaves the tiles alone."""
    file = tmp_path_factory.mktemp("tiles") / "vectors.pt"
    environment = os.environ | {"WEFT_TILES": "off"}
    subprocess.run([sys.executable, __file__, str(file)], check=True, env=environment)
    return (products(), attention(), feeds(), tiny_rows()), torch.load(file)


def test_products_have_the_bits_of_vectors(both):
    (tiles, *_), (vectors, *_) = both
    assert tiles.keys() == vectors.keys()
    for key, found in tiles.items():
        assert torch.isfinite(found).all() and torch.equal(found, vectors[key]), key


def test_a_row_is_the_same_in_any_company(both):
    (tiles, *_), _ = both
    for (form, N, K, biases, rows), found in tiles.items():
        assert torch.equal(found, tiles[form, N, K, biases, max(ROWS)][:rows])


def test_attention_has_the_bits_of_vectors_in_any_pieces(both):
    (_, tiles, *_), (_, vectors, *_) = both
    for (name, number), found in tiles.items():
        if number >= 0:
            assert torch.equal(found, vectors[name, number]) and torch.equal(found, tiles[name, 0]), name
            # Weights are bf16 as values are: a step of bf16 at the size of the answers, which are below 4.
            torch.testing.assert_close(found, tiles[name, -1], rtol=0, atol=2e-2)


def test_swiglu_has_the_bits_of_vectors(both):
    (_, _, tiles, _), (_, _, vectors, _) = both
    for (form, inner, rows), found in tiles.items():
        assert torch.isfinite(found).all() and torch.equal(found, vectors[form, inner, rows])
        assert torch.equal(found, tiles[form, inner, max(ROWS)][:rows])


def test_the_smallest_numbers_are_the_same_too(both):
    (*_, tiles), (*_, vectors) = both
    assert torch.equal(tiles, vectors) and tiles[0].abs().min() > 0


def test_the_libraries_have_tiles():
    library = serving("paged")
    assert library is not None
    assert [library.weft_paged_in_pairs(size) for size in (64, 63)] == [1, 0]
    if not library.weft_tiles_in_use():
        pytest.skip("the system does not grant the tiles: vectors were compared with vectors")


if __name__ == "__main__":
    torch.save((products(), attention(), feeds(), tiny_rows()), sys.argv[1])

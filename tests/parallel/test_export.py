"""One Hugging Face folder from any layout and into any, without the whole model on any rank."""

from __future__ import annotations

import errno
import gc
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.parallel.parity import Case, decoder_config
from tests.parallel.ranks import Ranks, slow
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from weft.checkpoint import weights
from weft.checkpoint.huggingface import load_model, save_model
from weft.checkpoint.slices import fill_model
from weft.checkpoint.spread import Spread
from weft.core.errors import CheckpointError, ResourceError
from weft.models import Decoder
from weft.ops.local import local
from weft.parallel.company import Company

LIMIT = 20_000
LAYOUTS = ("rows", "columns", "stages", "copies")


def decoder(tied: bool) -> Decoder:
    model = Decoder(decoder_config(Case(config={"tie_word_embeddings": tied})))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    return model


def spread(model: Decoder, layout: str) -> Decoder:
    """``model`` with its matrices cut over the ranks, or cut into a stage for each."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if layout == "stages":
        blocks = dict(model.blocks.named_children())
        own = {name: block for name, block in blocks.items() if int(name) * size // len(blocks) == rank}
        model.blocks = nn.ModuleDict(own)  # type: ignore[assignment]
        if rank != 0:
            model.embedding = None  # type: ignore[assignment]
        if rank != size - 1:
            model.norm = model.output = None  # type: ignore[assignment]
        return model
    mesh, cut = init_device_mesh("cpu", (size,)), [Shard(0)] if layout == "rows" else [Shard(1)]
    if layout == "grid":
        mesh, cut = init_device_mesh("cpu", (2, size // 2)), [Shard(0), Shard(1)]
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 2:
                placements = [Replicate()] if layout == "copies" else cut
                whole = distribute_tensor(parameter.detach(), mesh, placements)
                module.register_parameter(name, nn.Parameter(whole))
    return model


def export(folder: Path, layout: str, tied: bool) -> int:
    """Save from a layout; the most bytes of others' tensors that this rank held at once."""
    live, most = 0, 0
    plain = Spread.fetch

    def freed(size: int) -> None:
        nonlocal live
        live -= size

    def counted(self: Spread, *arguments: object) -> Tensor | None:
        nonlocal live, most
        found = plain(self, *arguments)  # type: ignore[arg-type]
        if found is not None:
            live += found.nbytes
            most = max(most, live)
            weakref.finalize(found, freed, found.nbytes)
        return found

    model = spread(decoder(tied), layout)
    Spread.fetch = counted  # type: ignore[assignment, method-assign]
    try:
        save_model(folder, model, None, max_shard_bytes=LIMIT, company=Company.gather())
    finally:
        Spread.fetch = plain  # type: ignore[method-assign]
    gc.collect()
    return most


def fill(folder: Path, layout: str, tied: bool) -> int:
    """Load into a layout; the most bytes that were read at once."""
    expected = {
        name: local(p.detach()).clone() for name, p in spread(decoder(tied), layout).named_parameters()
    }
    model = spread(decoder(tied), layout)
    for parameter in model.parameters():
        local(parameter.detach()).zero_()
    fill_model(folder, model)
    found = {name: local(p.detach()) for name, p in model.named_parameters()}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    return len(found)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def check(ranks: Ranks, layout: str, tied: bool, folder: Path) -> None:
    save_model(folder / "alone", decoder(tied), None, max_shard_bytes=LIMIT)
    most = ranks.run(export, folder / layout, layout, tied)
    assert content(folder / layout) == content(folder / "alone")
    assert len(list((folder / layout).glob("*.safetensors"))) > 4
    assert all(0 < held <= LIMIT for held in most)
    assert all(ranks.run(fill, folder / "alone", layout, tied))


@pytest.mark.parametrize(
    ("layout", "tied"),
    [
        *(("rows", False), ("columns", True), ("stages", True), ("stages", False), ("copies", False)),
        *slow(("rows", True), ("columns", False), ("copies", True)),
    ],
)
def test_the_same_bytes_from_two_ranks_and_back(two: Ranks, tmp_path: Path, layout: str, tied: bool) -> None:
    check(two, layout, tied, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [*LAYOUTS, "grid"])
def test_the_same_bytes_from_four_ranks_and_back(four: Ranks, tmp_path: Path, layout: str) -> None:
    check(four, layout, True, tmp_path)


def full_disk(folder: Path) -> str:
    plain = weights._save

    def full(tensors: dict[str, Tensor], file: Path) -> None:
        if dist.get_rank() == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        plain(tensors, file)

    weights._save = full
    try:
        with pytest.raises(ResourceError) as found:
            save_model(
                folder, spread(decoder(True), "rows"), None, max_shard_bytes=LIMIT, company=Company.gather()
            )
    finally:
        weights._save = plain
    return str(found.value)


def test_a_disk_full_on_one_rank_leaves_nothing(two: Ranks, tmp_path: Path) -> None:
    for text in two.run(full_disk, tmp_path / "model"):
        assert text.startswith("Rank 1 of 2: Could not write") and "no disk space left" in text
    assert not list(tmp_path.iterdir())


def test_another_shape_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model", decoder(True), None)
    with pytest.raises(CheckpointError, match="another shape"):
        fill_model(tmp_path / "model", decoder(False))
    assert load_model(tmp_path / "model").config == decoder(True).config

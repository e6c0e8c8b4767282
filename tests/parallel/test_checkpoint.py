"""Checkpoints of several ranks: any layout to any other, and no rank left waiting."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.parallel.ranks import Ranks
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from weft.checkpoint import state as checkpoint
from weft.checkpoint.saver import Saver
from weft.checkpoint.state import State
from weft.core.errors import CheckpointError, ResourceError
from weft.parallel.company import Company

CUTS = {"rows": (Shard(0),), "columns": (Shard(1),), "copies": (Replicate(),), "none": None}
GRID_CUTS = {
    "grid": (Shard(0), Shard(1)),
    "grid-turned": (Shard(1), Shard(0)),
    "grid-rows": (Shard(0), Shard(0)),
    "grid-hybrid": (Replicate(), Shard(0)),
}


def whole() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    tensors = {
        "a": torch.randn(8, 12, generator=generator),
        "uneven": torch.randn(5, 7, generator=generator),
        "small": torch.randn(1, 4, generator=generator),
    }
    return tensors | {"half": tensors["a"].bfloat16() * 3, "step": torch.tensor(7.0), "n": torch.arange(5)}


def cut(how: str) -> dict[str, Tensor]:
    """The tensors of :func:`whole` as this rank holds them; matrices cut, ``n`` on the last rank only."""
    tensors = whole()
    if how == "alone":
        return tensors
    grid = how in GRID_CUTS
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2) if grid else (dist.get_world_size(),))
    placements = GRID_CUTS[how] if grid else CUTS[how]
    held = {
        name: distribute_tensor(t, mesh, placements) if placements and t.ndim == 2 else t
        for name, t in tensors.items()
    }
    if dist.get_rank() != dist.get_world_size() - 1:
        del held["n"]
    return held


def write(folder: Path, how: str, beside: bool) -> None:
    saver = Saver(folder, 2, Company.gather(), beside=beside)
    with saver:
        held = cut(how)
        saver.save(State(3, held, {"x": "y"}))
        for tensor in held.values():
            # What is written is what was there; not beside training it is written already.
            tensor.zero_()


def read(path: Path, how: str) -> None:
    company = Company.gather()
    assert checkpoint.verify(path, company) == (3, {"x": "y"})
    held = {name: torch.zeros_like(t) for name, t in cut(how).items()}
    checkpoint.load_into(path, held, company)
    for name, tensor in whole().items():
        if name in held:
            found = held[name]
            assert torch.equal(found.full_tensor() if isinstance(found, DTensor) else found, tensor), name


def check_files(folder: Path, ranks: int) -> Path:
    """Everything came back and, of what several ranks hold, one wrote it."""
    path = checkpoint.newest(folder)
    assert path is not None and [entry.name for entry in folder.iterdir()] == [path.name]
    found = checkpoint.load(path)
    assert found.tensors.keys() == whole().keys()
    assert all(torch.equal(found.tensors[name], t) for name, t in whole().items())
    assert len(list(path.glob("*.distcp"))) == ranks
    return path


@pytest.mark.parametrize("beside", [False, True])
def test_two_ranks_to_every_layout(two: Ranks, tmp_path: Path, beside: bool) -> None:
    for how in CUTS:
        folder = tmp_path / how
        two.run(write, folder, how, beside)
        path = check_files(folder, 2)
        for other in CUTS:
            two.run(read, path, other)


def test_one_process_to_two_ranks(two: Ranks, tmp_path: Path) -> None:
    write(tmp_path, "alone", True)
    path = check_files(tmp_path, 1)
    for how in CUTS:
        two.run(read, path, how)


@pytest.mark.slow
def test_two_ranks_to_four_on_a_grid_and_back(two: Ranks, four: Ranks, tmp_path: Path) -> None:
    two.run(write, tmp_path / "two", "columns", True)
    path = check_files(tmp_path / "two", 2)
    for how in GRID_CUTS:
        four.run(read, path, how)
        four.run(write, tmp_path / how, how, True)
        wide = check_files(tmp_path / how, 4)
        two.run(read, wide, "rows")
        four.run(read, wide, "grid-turned")


def refused(path: Path, broken: str) -> str:
    held = cut("rows")
    if broken == "name":
        held |= {"other": torch.zeros(2)} if dist.get_rank() == 1 else {}
    else:
        held["step"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as found:
        checkpoint.load_into(path, held, Company.gather())
    return str(found.value)


def damaged(path: Path) -> str:
    with pytest.raises(CheckpointError) as found:
        checkpoint.verify(path, Company.gather())
    return str(found.value)


def test_what_does_not_fit_is_refused_on_every_rank(two: Ranks, tmp_path: Path) -> None:
    write(tmp_path, "alone", False)
    path = check_files(tmp_path, 1)
    assert all("Rank 1 of 2" in text and "lacks other" in text for text in two.run(refused, path, "name"))
    assert all("has the shape []" in text for text in two.run(refused, path, "shape"))
    file = next(path.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-1])
    assert all("missing or damaged" in text for text in two.run(damaged, path))


def full_disk(folder: Path, beside: bool) -> tuple[str, bool]:
    """Rank 1 has no space left from the second save on."""
    saver = Saver(folder, 2, Company.gather(), beside=beside)
    plain = FileSystemWriter.write_data

    def full(self: FileSystemWriter, *arguments: object) -> object:
        if dist.get_rank() == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, *arguments)

    saver.save(State(3, cut("rows"), {"x": "y"}))
    saver.wait()
    FileSystemWriter.write_data = full  # type: ignore[assignment, method-assign]
    try:
        with pytest.raises(ResourceError) as found:
            saver.save(State(4, cut("rows"), {}))
            saver.wait()
    finally:
        FileSystemWriter.write_data = plain  # type: ignore[method-assign]
    dist.barrier()
    saver.wait()
    return str(found.value), saver.failed


@pytest.mark.parametrize("beside", [False, True])
def test_a_disk_full_on_one_rank_is_told_by_all_and_leaves_the_last(
    two: Ranks, tmp_path: Path, beside: bool
) -> None:
    for text, failed in two.run(full_disk, tmp_path, beside):
        assert text.startswith("Rank 1 of 2: Could not write") and "no disk space left" in text
        assert not failed
    check_files(tmp_path, 2)


def elsewhere(folder: Path) -> str:
    def there() -> None:
        if dist.get_rank() == 1:
            raise RuntimeError("a defect")

    with pytest.raises(CheckpointError) as found:
        Company.gather().all(there)
    return str(found.value)


def test_a_failure_of_any_kind_reaches_every_rank(two: Ranks, tmp_path: Path) -> None:
    assert two.run(elsewhere, tmp_path) == ["Rank 1 of 2: RuntimeError: a defect"] * 2

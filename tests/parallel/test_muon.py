"""Muon over processes: torch's own in one, the same update in several."""

import pytest
import torch
from tests.parallel.parity import Case, compare, train
from tests.parallel.ranks import Ranks

from weft.ops import orthogonal
from weft.ops.orthogonal import orthogonalise
from weft.train.muon import Muon


def test_one_process_is_the_optimiser_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a machine with bf16 instructions, which torch.optim.Muon takes for granted.
    monkeypatch.setattr(orthogonal, "has_bfloat16", lambda device: True)
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (24, 8), (8, 40)]
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizer = Muon(ours, 0.01, 0.1, 0.95)
    reference = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def test_a_stack_is_its_matrices() -> None:
    stack = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))
    together = orthogonalise(stack).float()
    apart = torch.stack([orthogonalise(matrix) for matrix in stack]).float()
    # Products of stacks add up in another order, in bf16.
    assert (together - apart).abs().max() < 0.05
    assert torch.linalg.matrix_norm(together, 2).max() < 1.3


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96)])
def test_fp32_turns_a_matrix_as_bf16_does(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact, rounded = orthogonalise(matrix, torch.float32), orthogonalise(matrix, torch.bfloat16)
    assert exact.dtype == rounded.dtype == torch.bfloat16
    assert (exact.float() - rounded.float()).abs().max() < 0.05
    # The coefficients stop between about 0.7 and 1.2, and not at 1; the smallest value of a square matrix of
    # random numbers is too near 0 for five iterations.
    values = torch.linalg.svdvals(exact.float())
    assert values[-2] > 0.6 and values[0] < 1.3


@pytest.mark.parametrize("plan", ["dp=2", "fsdp=2"])
def test_muon_of_parts_is_muon_of_the_whole(two: Ranks, plan: str) -> None:
    compare(two, plan, Case(optimizer="muon"), loss=2e-3)


def test_replicas_stay_the_same_to_the_last_bit(two: Ranks) -> None:
    left, right = two.run(train, "dp=2", Case(optimizer="muon"))
    assert left[0] == right[0]

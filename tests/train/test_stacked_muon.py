"""Muon of a stack equals torch.optim.Muon of each of its matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weft.train.stacked_muon import StackedMuon, orthogonal


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8), (2, 16, 16)])
def test_a_stack_moves_as_its_matrices_alone(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    stack = nn.Parameter(torch.randn(shape))
    alone = [nn.Parameter(matrix.detach().clone()) for matrix in stack]
    together = StackedMuon([stack], 0.1, 0.1, 0.95)
    apart = torch.optim.Muon(alone, lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        stack.grad = torch.randn(shape)
        for matrix, gradient in zip(alone, stack.grad, strict=True):
            matrix.grad = gradient.clone()
        together.step()
        apart.step()
    for matrix, expected in zip(stack, alone, strict=True):
        # The iterations are in bf16; its rounding differs between one product and a batch of them.
        torch.testing.assert_close(matrix, expected, rtol=0, atol=5e-3)
    assert set(together.state[stack]) == set(apart.state[alone[0]])


def test_a_matrix_without_gradient_stays_but_for_decay() -> None:
    stack = nn.Parameter(torch.ones(2, 4, 4))
    stack.grad = torch.zeros(2, 4, 4)
    stack.grad[1] = torch.eye(4)
    StackedMuon([stack], 0.1, 0.5, 0.95).step()
    torch.testing.assert_close(stack[0], torch.full((4, 4), 0.95))
    assert not torch.allclose(stack[1], torch.full((4, 4), 0.95))


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonal(torch.randn(4, 12, 20)).float())
    assert 0.5 < float(values.min()) and float(values.max()) < 1.3

"""The random field against every sequence of classes written out, over packed rows."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from weft.ops.crf import best, likelihood, viterbi
from weft.ops.loss import IGNORED

C = 3
Table = tuple[Tensor, Tensor, Tensor]


def table(seed: int) -> Table:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*shape, generator=generator) for shape in ((C, C), (C,), (C,))]
    return drawn[0], drawn[1], drawn[2]


def scored(scores_TC: Tensor, classes: tuple[int, ...], parts: Table) -> Tensor:
    transitions, first, last = parts
    total = first[classes[0]] + last[classes[-1]]
    total = total + sum(scores_TC[place, label] for place, label in enumerate(classes))
    return total + sum(transitions[a, b] for a, b in itertools.pairwise(classes))


def plain(scores_TC: Tensor, classes: tuple[int, ...], parts: Table) -> Tensor:
    """The negative log-likelihood of one document, every sequence written out."""
    every = [scored(scores_TC, other, parts) for other in itertools.product(range(C), repeat=len(scores_TC))]
    return torch.stack(every).logsumexp(0) - scored(scores_TC, classes, parts)


def test_packed_documents_have_the_likelihood_that_each_has_alone() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 6, C)
    start = torch.tensor([[0, 0, 0, 3, 3, 5], [0, 1, 1, 1, 1, 5]], dtype=torch.int32)
    targets = torch.tensor([[0, 2, 1, 1, 1, IGNORED], [2, 0, 1, 2, 0, IGNORED]])
    parts = table(1)
    documents = [(0, 0, 3), (0, 3, 5), (1, 0, 1), (1, 1, 5)]
    expected = sum(
        plain(scores[row, a:b], tuple(targets[row, a:b].tolist()), parts) for row, a, b in documents
    )
    assert likelihood(scores, targets, start, parts) == pytest.approx(float(expected), abs=1e-5)


def test_gradients_are_those_of_the_plain_form() -> None:
    torch.manual_seed(1)
    scores = torch.randn(1, 4, C, dtype=torch.float64, requires_grad=True)
    parts = [part.double().requires_grad_() for part in table(2)]
    whole = (parts[0], parts[1], parts[2])
    targets, start = torch.tensor([[0, 1, 1, 2]]), torch.zeros(1, 4, dtype=torch.int32)
    ours = torch.autograd.grad(likelihood(scores, targets, start, whole), [scores, *parts])
    theirs = torch.autograd.grad(plain(scores[0], (0, 1, 1, 2), whole), [scores, *parts])
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_viterbi_finds_the_best_of_all_sequences(length: int) -> None:
    torch.manual_seed(length)
    scores, parts = torch.randn(length, C), table(length)
    parts[0][0, 1] = float("-inf")
    every = list(itertools.product(range(C), repeat=length))
    highest = max(every, key=lambda classes: float(scored(scores, classes, parts)))
    assert tuple(viterbi(scores, parts)) == highest


def test_the_best_of_packed_documents_is_that_of_each_alone() -> None:
    torch.manual_seed(4)
    scores, parts = torch.randn(3, 12, C), table(5)
    parts[0][2, 0] = parts[1][1] = float("-inf")
    edges = [[0, 3, 5, 6, 12], [0, 1, 12], [0, 12]]
    start = torch.zeros(3, 12, dtype=torch.int32)
    for row, places in enumerate(edges):
        for a, b in itertools.pairwise(places):
            start[row, a:b] = a
    found = best(scores, start, parts)
    for row, places in enumerate(edges):
        for a, b in itertools.pairwise(places):
            assert found[row, a:b].tolist() == viterbi(scores[row, a:b], parts)

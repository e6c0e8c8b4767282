"""Questions and texts of packed rows against the same said with loops over documents and tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.both_ways import BothWays
from weft.ops.questions import Asked, asked, near, parts, put, repeated, same_tokens, taken

START, SEPARATOR = 1, 0
LENGTHS = ((4, 11), (3, 17), (1, 1), (7, 2))
"""Tokens of question and text of the documents of a row."""


def rows() -> tuple[Tensor, BothWays, list[tuple[int, int, int, int]]]:
    """Tokens [2, T], their documents, and (first, separator, end) of those, flat, with a row's width.

    After the documents come one without a separator, one without a text, and padding by separators.
    """
    chance = torch.Generator().manual_seed(0)
    width = sum(2 + q + t for q, t in LENGTHS) + 4 + 3 + 3
    tokens = torch.randint(2, 8, (2, width), generator=chance)
    start = torch.arange(width, dtype=torch.int32).repeat(2, 1)
    places = []
    for row, lengths in enumerate((LENGTHS, LENGTHS[::-1])):
        begin = 0
        for q, t in lengths:
            end = begin + 2 + q + t
            tokens[row, begin], tokens[row, begin + 1 + q] = START, SEPARATOR
            start[row, begin:end] = begin
            places.append((row * width + begin, row * width + begin + 1 + q, row * width + end, row))
            begin = end
        start[row, begin : begin + 4] = begin
        start[row, begin + 4 : begin + 7] = begin + 4
        tokens[row, begin + 6] = SEPARATOR
        tokens[row, -3:] = SEPARATOR
    return tokens, BothWays(start), places


def each(documents: list[Asked]) -> dict[int, tuple[list[int], list[int]]]:
    """Flat positions of question and text by the first token of their document."""
    return {
        int(group.first_N[n]): (
            group.question_NQ[n][group.in_question_NQ[n]].tolist(),
            group.text_NC[n][group.in_text_NC[n]].tolist(),
        )
        for group in documents
        for n in range(len(group.first_N))
    }


def test_every_document_with_question_and_text_is_found() -> None:
    tokens, context, places = rows()
    documents = asked(tokens, context, SEPARATOR)
    assert each(documents) == {
        first: (list(range(first, at)), list(range(at + 1, end))) for first, at, end, _ in places
    }
    lengths = [int(group.in_text_NC.sum(1).max()) for group in documents]
    assert lengths == sorted(lengths, reverse=True)
    assert asked(tokens[:, -3:], BothWays(torch.arange(3, dtype=torch.int32).repeat(2, 1)), SEPARATOR) == []


def test_a_prompt_that_starts_with_the_separator_is_read_too() -> None:
    tokens = torch.tensor([[0, 5, 6, 0, 7, 0, 8]])
    context = BothWays(torch.zeros(1, 7, dtype=torch.int32))
    assert each(asked(tokens, context, SEPARATOR)) == {0: ([0, 1, 2], [4, 5, 6])}


def test_question_separator_and_text_become_documents_of_their_own() -> None:
    tokens, context, places = rows()
    start = parts(tokens, context, SEPARATOR).start.flatten()
    wanted = context.start.flatten().clone()
    width = tokens.shape[1]
    for _, at, end, _ in places:
        wanted[at], wanted[at + 1 : end] = at % width, at % width + 1
    for row in (0, 1):
        wanted[row * width + width - 4] = width - 4
    assert torch.equal(start, wanted)


def test_what_a_text_repeats_of_its_question() -> None:
    tokens, context, _ = rows()
    flat = tokens.flatten().tolist()
    for group in asked(tokens, context, SEPARATOR):
        same = same_tokens(tokens, group)
        found, close = repeated(same, 4), near(same, 2)
        for n, (question, text) in enumerate(each([group]).values()):
            asks, says = [flat[p] for p in question], [flat[p] for p in text]
            for length in range(1, 5):
                grams = [asks[q : q + length] for q in range(len(asks) - length + 1)]
                hit = [False] * len(says)
                for c in range(len(says) - length + 1):
                    if says[c : c + length] in grams:
                        hit[c : c + length] = [True] * length
                assert found[n, : len(says), length - 1].tolist() == hit
            for c in range(len(says)):
                around = says[max(0, c - 2) : c + 3]
                assert close[n, c, : len(asks)].tolist() == [token in around for token in asks]
            assert not found[n, len(says) :, 0].any() and not close[n, :, len(asks) :].any()


def test_what_is_taken_is_put_back_and_nothing_else() -> None:
    tokens, context, places = rows()
    x = torch.randn(*tokens.shape, 3, generator=torch.Generator().manual_seed(1))
    documents = asked(tokens, context, SEPARATOR)
    back = put(x, documents, taken(x, [group.text_NC for group in documents])).flatten(0, 1)
    texts = [p for _, at, end, _ in places for p in range(at + 1, end)]
    assert torch.equal(back[texts], x.flatten(0, 1)[texts])
    assert not back[[p for p in range(len(back)) if p not in texts]].any()

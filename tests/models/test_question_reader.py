"""The recurrent reader: each document as if it were alone, its counts, checkpoints and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.baselines import documents, drawn, shape, whole
from torch import Tensor

from weft.checkpoint.huggingface import load_any, save_model
from weft.checkpoint.kinds import KINDS
from weft.core.errors import CheckpointError, ConfigError
from weft.models.baseline_config import BaselineConfig
from weft.models.reader import SpanReader
from weft.ops.both_ways import BothWays

NAMES = ("WeftLstmForQuestionAnswering", "WeftGruForQuestionAnswering")
SEPARATOR = 0
LENGTHS = ((4, 11), (3, 17), (1, 1), (9, 5), (2, 30), (6, 4), (3, 3), (5, 8), (2, 2), (4, 6), (0, 3))
"""More documents of two rows than are read together."""


def reader(name: str = NAMES[0], **changes: Any) -> BaselineConfig:
    return shape(name, labels=("start", "end"), sep_token_id=SEPARATOR, **changes)


def packed() -> tuple[Tensor, Tensor]:
    """(tokens, document_start), both [2, T]: start, question, separator and text; then padding."""
    chance = torch.Generator().manual_seed(1)
    width = sum(2 + q + t for q, t in LENGTHS) + 3
    tokens = torch.randint(2, 12, (2, width), generator=chance)
    tokens[:, -3:] = SEPARATOR
    start = torch.arange(width, dtype=torch.int32).repeat(2, 1)
    for row, lengths in enumerate((LENGTHS, LENGTHS[::-1])):
        begin = 0
        for q, t in lengths:
            tokens[row, begin], tokens[row, begin + 1 + q] = 1, SEPARATOR
            start[row, begin : begin + 2 + q + t] = begin
            begin += 2 + q + t
    return tokens, start


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", [{}, {"bigram_buckets": 50, "bigram_size": 4}])
def test_documents_of_a_row_do_not_see_each_other(name: str, changes: dict[str, Any]) -> None:
    model = drawn(reader(name, **changes))
    tokens, start = packed()
    with torch.no_grad():
        together = model.logits(model(tokens, BothWays(start)))
        assert together.shape == (*tokens.shape, 2)
        for row, first, stop in documents(start):
            alone = tokens[row : row + 1, first:stop]
            own = model.logits(model(alone, whole(alone)))
            torch.testing.assert_close(together[row, first:stop], own[0], rtol=1e-4, atol=1e-5)


def test_the_question_decides_where_the_answer_is() -> None:
    model = drawn(reader())
    tokens, start = packed()
    other = tokens.clone()
    other[0, 1] = 13
    with torch.no_grad():
        before, after = (model.logits(model(x, BothWays(start)))[0] for x in (tokens, other))
    end = int(BothWays(start).end[0, 0])
    changed = (before - after).abs().amax(-1) > 1e-6
    assert changed[0] and changed[6:end].all() and not changed[end:].any()


def test_bf16_rounds_and_no_more() -> None:
    model = drawn(reader())
    tokens, start = packed()
    with torch.no_grad():
        exact, rounded = (model(tokens, BothWays(start), kind) for kind in (torch.float32, torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    off = (rounded.float() - exact).abs().mean() / exact.abs().mean()
    assert off < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name: str) -> None:
    model = drawn(reader(name, bigram_buckets=50, bigram_size=4)).train()
    tokens, start = packed()
    found = model.logits(model(tokens, BothWays(start)))
    (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), parameter_name


def test_rows_without_any_question_are_read() -> None:
    model = drawn(reader())
    tokens = torch.full((2, 5), SEPARATOR)
    alone = BothWays(torch.arange(5, dtype=torch.int32).repeat(2, 1))
    assert not model(tokens, alone).any()
    assert model(torch.ones_like(tokens), whole(tokens)).shape == (2, 5, 32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", [{}, {"num_hidden_layers": 1}, {"bigram_buckets": 50, "bigram_size": 4}])
def test_counts_of_parameters(name: str, changes: dict[str, Any]) -> None:
    config = reader(name, **changes)
    model = KINDS[name].build(config)
    assert config.parameters == sum(p.numel() for p in model.parameters())
    tables = ("embedding.", "bigrams.", "classifier.")
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim > 1 and not n.startswith(tables))
    assert config.flops_per_token(100) == 6 * matrices


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model = drawn(reader(name, dropout=0.1))
    save_model(tmp_path / "m", model, None)
    back = load_any(tmp_path / "m").eval()
    assert isinstance(back, SpanReader) and back.config == model.config
    tokens, start = packed()
    assert torch.equal(back(tokens, BothWays(start)), model(tokens, BothWays(start)))
    small = load_any(tmp_path / "m", torch.bfloat16)
    assert isinstance(small, SpanReader) and small.below.weight_ih_l0.dtype == torch.float32


def test_a_checkpoint_without_a_separator_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "m", drawn(reader()), None)
    file = tmp_path / "m" / "config.json"
    file.write_text(file.read_text().replace('"sep_token_id"', '"cls_token_id"'))
    with pytest.raises(CheckpointError, match="it lacks sep_token_id"):
        load_any(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            NAMES[0],
            {"sep_token_id": None},
            "sep_token_id = None does not fit an WeftLstmForQuestionAnswering",
        ),
        (NAMES[0], {"sep_token_id": 90}, "sep_token_id = 90 must be one of the 90 tokens"),
        (NAMES[0], {"sep_token_id": 1, "crf": True}, "crf = true stands on labels of tokens"),
        ("WeftGruForTokenClassification", {"sep_token_id": 1}, "nothing else has one"),
    ],
)
def test_what_cannot_be_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shape(name, **changes)

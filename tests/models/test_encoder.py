"""ModernBERT here and in transformers: the same scores in both directions, packed or alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import transformers

from weft.checkpoint.huggingface import load_any, load_model, save_model
from weft.core.errors import CheckpointError, ConfigError
from weft.models.encoder import Encoder
from weft.models.encoder_config import EncoderConfig
from weft.ops.both_ways import BothWays, both_ways, both_ways_plain

CLASSES = {
    "ModernBertForMaskedLM": transformers.ModernBertForMaskedLM,
    "ModernBertForSequenceClassification": transformers.ModernBertForSequenceClassification,
    "ModernBertForTokenClassification": transformers.ModernBertForTokenClassification,
    "ModernBertForQuestionAnswering": transformers.ModernBertForQuestionAnswering,
}
LABELS = {"ModernBertForMaskedLM": (), "ModernBertForQuestionAnswering": ("start", "end")}


def shape(architecture: str, **changes: object) -> EncoderConfig:
    config = EncoderConfig(
        vocab_size=90,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=5,
        num_attention_heads=2,
        local_attention=8,
        architecture=architecture,
        labels=LABELS.get(architecture, ("负面", "中性", "正面")),
    )
    return dataclasses.replace(config, **changes)


def drawn(config: EncoderConfig) -> Encoder:
    """Weights that are all alive: fresh ones begin with zeros in places."""
    torch.manual_seed(0)
    model = Encoder(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    return model


def scores(model: Encoder, tokens: torch.Tensor) -> torch.Tensor:
    context = BothWays(torch.zeros_like(tokens, dtype=torch.int32))
    hidden = model(tokens, context)
    if model.config.head == "sequence":
        return model.classify(hidden, context, torch.arange(len(tokens)) * tokens.shape[1])
    return model.logits(hidden)


def theirs(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    out = model(input_ids=tokens)
    return torch.stack([out.start_logits, out.end_logits], -1) if "start_logits" in out else out.logits


@pytest.mark.parametrize("architecture", list(CLASSES))
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_scores_are_those_of_transformers(architecture: str, pooling: str, tmp_path: Path) -> None:
    model = drawn(shape(architecture, classifier_pooling=pooling, norm_bias=True, classifier_bias=True))
    save_model(tmp_path / "ours", model, None)
    other = CLASSES[architecture].from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    tokens = torch.randint(0, 90, (3, 29))
    with torch.no_grad():
        expected = theirs(other, tokens)
        torch.testing.assert_close(scores(model, tokens), expected, rtol=1e-4, atol=1e-5)
        other.save_pretrained(tmp_path / "theirs")
        back = load_any(tmp_path / "theirs")
        assert isinstance(back, Encoder)
        assert back.config == model.config
        torch.testing.assert_close(scores(back.eval(), tokens), expected, rtol=1e-4, atol=1e-5)


def test_labels_are_kept(tmp_path: Path) -> None:
    save_model(tmp_path / "m", drawn(shape("ModernBertForSequenceClassification")), None)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "m")
    assert config.id2label == {0: "负面", 1: "中性", 2: "正面"}
    assert load_any(tmp_path / "m").config.labels == ("负面", "中性", "正面")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_documents_of_a_row_do_not_see_each_other(dtype: torch.dtype) -> None:
    model = drawn(shape("ModernBertForTokenClassification"))
    lengths = (11, 17, 1, 3)
    tokens = torch.randint(0, 90, (1, sum(lengths)))
    start = torch.cat([torch.full((n,), sum(lengths[:i])) for i, n in enumerate(lengths)]).int().unsqueeze(0)
    with torch.no_grad():
        packed = model.logits(model(tokens, BothWays(start), dtype))
        place = 0
        for length in lengths:
            piece = tokens[:, place : place + length]
            alone = model.logits(model(piece, BothWays(torch.zeros_like(piece, dtype=torch.int32)), dtype))
            bound = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 5e-2}
            torch.testing.assert_close(packed[:, place : place + length], alone, **bound)
            place += length


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_does_not_matter(pooling: str) -> None:
    model = drawn(shape("ModernBertForSequenceClassification", classifier_pooling=pooling))
    tokens = torch.randint(0, 90, (1, 12))
    start = torch.tensor([[0] * 9 + [9, 10, 11]], dtype=torch.int32)
    context = BothWays(start)
    with torch.no_grad():
        padded = model.classify(model(tokens, context), context, torch.tensor([0]))
        torch.testing.assert_close(padded, scores(model, tokens[:, :9]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reach", [None, 3])
def test_attention_both_ways_is_its_plain_twin(dtype: torch.dtype, reach: int | None) -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 40, 2, 32, dtype=dtype, requires_grad=True) for _ in range(3))
    start = torch.tensor([[0] * 13 + [13] * 20 + list(range(33, 40)), [0] * 40], dtype=torch.int32)
    context = BothWays(start)
    first, end = (context.start, context.end) if reach is None else context._within(reach)
    seen = [
        [abs(i - j) <= (reach or 40) and start[0, i] == start[0, j] for j in range(40)] for i in range(40)
    ]
    assert [int(end[0, i] - first[0, i]) for i in range(40)] == [sum(map(bool, row)) for row in seen]
    mixed, plain = both_ways(q, k, v, first, end), both_ways_plain(q, k, v, first, end)
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(mixed, plain, rtol=bound, atol=bound)
    weight = torch.randn_like(plain)
    for one, other in zip(
        torch.autograd.grad((mixed * weight).sum(), (q, k, v)),
        torch.autograd.grad((plain * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=2 * bound, atol=4 * bound)


def test_masked_loss_is_that_of_transformers(tmp_path: Path) -> None:
    model = drawn(shape("ModernBertForMaskedLM"))
    save_model(tmp_path / "m", model, None)
    other = transformers.ModernBertForMaskedLM.from_pretrained(
        tmp_path / "m", attn_implementation="eager"
    ).eval()
    tokens = torch.randint(0, 90, (2, 15))
    targets = torch.full((2, 15), -100)
    targets[0, 3], targets[1, 7], targets[1, 8] = 5, 6, 7
    hidden = model(tokens, BothWays(torch.zeros_like(tokens, dtype=torch.int32)))
    loss = model.masked_loss(hidden, targets, 1 / 3)
    torch.testing.assert_close(loss, other(input_ids=tokens, labels=targets).loss, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_counts_of_parameters() -> None:
    for architecture in CLASSES:
        for changes in (
            {},
            {"norm_bias": True, "mlp_bias": True, "attention_bias": True, "classifier_bias": True},
        ):
            model = Encoder(shape(architecture, **changes))
            assert model.config.parameters == sum(p.numel() for p in model.parameters())


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="labels"):
        shape("ModernBertForSequenceClassification", labels=())
    with pytest.raises(ConfigError, match="two labels"):
        shape("ModernBertForQuestionAnswering", labels=("a", "b", "c"))
    save_model(tmp_path / "m", drawn(shape("ModernBertForMaskedLM")), None)
    with pytest.raises(CheckpointError, match="does not continue text"):
        load_model(tmp_path / "m")

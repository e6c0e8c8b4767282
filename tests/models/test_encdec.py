"""T5 v1.1 here and in transformers: the same scores and the same answers, packed or alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import transformers

from weft.checkpoint.convert import ConvertConfig, convert
from weft.checkpoint.huggingface import load_any, save_model
from weft.core.errors import CheckpointError, ConfigError, UsageError
from weft.engine.encdec import write
from weft.engine.search import Beams
from weft.models.encdec import EncoderDecoder, Pairs
from weft.models.encdec_config import EncoderDecoderConfig
from weft.ops.relative import biased_attention, biased_attention_plain

SHAPE = EncoderDecoderConfig(
    vocab_size=70,
    d_model=32,
    d_kv=8,
    d_ff=64,
    num_layers=2,
    num_decoder_layers=3,
    num_heads=4,
    relative_attention_max_distance=20,
)


def drawn(config: EncoderDecoderConfig) -> EncoderDecoder:
    """Weights that are all alive: fresh ones begin with zeros in places."""
    torch.manual_seed(0)
    model = EncoderDecoder(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.15)
    return model


def pairs(source: torch.Tensor, tokens: torch.Tensor) -> Pairs:
    zeros = torch.zeros_like
    return Pairs(source, zeros(source), tokens, zeros(tokens), zeros(tokens))


@pytest.mark.parametrize("tied", [False, True])
def test_the_scores_are_those_of_transformers(tied: bool, tmp_path: Path) -> None:
    model = drawn(dataclasses.replace(SHAPE, tie_word_embeddings=tied))
    ids = {"eos_token_id": 1, "pad_token_id": 0}
    save_model(tmp_path / "ours", model, None, generation=ids)
    other = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    source, tokens = torch.randint(2, 70, (3, 33)), torch.randint(2, 70, (3, 27))
    with torch.no_grad():
        expected = other(input_ids=source, decoder_input_ids=tokens).logits
        torch.testing.assert_close(model.logits(model(pairs(source, tokens))), expected, rtol=1e-4, atol=1e-4)
        other.save_pretrained(tmp_path / "theirs")
        back = load_any(tmp_path / "theirs")
        assert isinstance(back, EncoderDecoder)
        assert back.config == model.config
        logits = back.eval().logits(back(pairs(source, tokens)))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_answers_are_those_of_transformers(beams: int, tmp_path: Path) -> None:
    # The cache of transformers takes as many layers as the encoder has.
    model = drawn(dataclasses.replace(SHAPE, num_decoder_layers=2))
    save_model(tmp_path / "m", model, None, generation={"eos_token_id": 1, "pad_token_id": 0})
    other = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "m").eval()
    sources = [torch.randint(2, 70, (length,)).tolist() for length in (5, 17, 9, 2, 30)]
    answers = write(model, sources, 0, 1, Beams(24, beams, alternatives=beams))
    for source, found in zip(sources, answers, strict=True):
        expected = other.generate(
            torch.tensor([source]),
            max_new_tokens=24,
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            decoder_start_token_id=0,
            length_penalty=1.0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        theirs = [[t for t in row[1:].tolist() if t > 1] for row in expected.sequences]
        assert [[t for t in answer.tokens if t > 1] for answer in found][:1] == theirs[:1]
        if beams > 1:
            assert found[0].score == pytest.approx(float(expected.sequences_scores[0]), rel=1e-3)
            assert [a.score for a in found] == sorted((a.score for a in found), reverse=True)


def test_a_step_at_a_time_is_the_whole_row() -> None:
    model = drawn(SHAPE)
    source, tokens = torch.randint(2, 70, (2, 14)), torch.randint(2, 70, (2, 9))
    lengths = torch.tensor([14, 6])
    with torch.no_grad():
        writing = model.begin(source, lengths, 9)
        steps = torch.stack([model.step(tokens[:, place], writing) for place in range(9)], 1)
        for row, length in enumerate(lengths.tolist()):
            alone = pairs(source[row : row + 1, :length], tokens[row : row + 1])
            whole = model.logits(model(alone))[0]
            torch.testing.assert_close(steps[row], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_of_a_row_do_not_see_each_other(dtype: torch.dtype) -> None:
    model = drawn(SHAPE)
    sizes = ((7, 5), (11, 3), (2, 9))
    S, T = 24, 20
    source, tokens = torch.randint(2, 70, (1, S)), torch.randint(2, 70, (1, T))
    source_pair, target_pair = torch.full((1, S), -1), torch.full((1, T), -1)
    start = torch.arange(T).unsqueeze(0).clone()
    s = t = 0
    for number, (left, right) in enumerate(sizes):
        source_pair[:, s : s + left], target_pair[:, t : t + right] = number, number
        start[:, t : t + right] = t
        s, t = s + left, t + right
    with torch.no_grad():
        packed = model.logits(model(Pairs(source, source_pair, tokens, start, target_pair), dtype))
        assert torch.isfinite(packed).all()
        s = t = 0
        for left, right in sizes:
            alone = model.logits(model(pairs(source[:, s : s + left], tokens[:, t : t + right]), dtype))
            bound = 1e-4 if dtype == torch.float32 else 0.1
            torch.testing.assert_close(packed[:, t : t + right], alone, rtol=bound, atol=bound)
            s, t = s + left, t + right


def test_attention_with_bias_is_its_plain_twin() -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    bias = torch.randn(2, 3, 5, 7).masked_fill(torch.rand(2, 1, 5, 7) < 0.3, float("-inf"))
    bias[..., 0] = 0.0
    torch.testing.assert_close(biased_attention(q, k, v, bias), biased_attention_plain(q, k, v, bias))


def test_the_loss_reaches_every_weight() -> None:
    model = drawn(SHAPE).train()
    source, tokens = torch.randint(2, 70, (2, 6)), torch.randint(2, 70, (2, 5))
    hidden = model(pairs(source, tokens))
    model.output.loss(hidden, torch.randint(2, 70, (2, 5)), 0.1).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_counts_of_parameters() -> None:
    for config in (SHAPE, dataclasses.replace(SHAPE, tie_word_embeddings=True)):
        assert config.parameters == sum(p.numel() for p in EncoderDecoder(config).parameters())


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 4"):
        dataclasses.replace(SHAPE, relative_attention_num_buckets=6)
    with pytest.raises(UsageError, match="without tokens"):
        write(drawn(SHAPE), [[]], 0, 1, Beams(5, 1))
    with pytest.raises(UsageError, match="alternatives"):
        Beams(5, 2, alternatives=3)
    old = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(old).save_pretrained(tmp_path / "old")
    with pytest.raises(CheckpointError, match="feed_forward_proj"):
        load_any(tmp_path / "old")
    save_model(tmp_path / "m", drawn(SHAPE), None)
    with pytest.raises(UsageError, match="only decoders are written as GGUF"):
        convert(tmp_path / "m", tmp_path / "g", ConvertConfig(format="gguf"), command="export")
    convert(tmp_path / "m", tmp_path / "half", ConvertConfig(dtype="bfloat16"), command="export")
    assert load_any(tmp_path / "half").number_format == "bfloat16"

"""Bits of documents against sums written out, and against the loader that training uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from weft.core.errors import DataError
from weft.data.loader import Loader
from weft.data.schema import SHARDS
from weft.data.shards import open_split
from weft.eval.decoder_model import DecoderModel
from weft.eval.metrics.bits_per_byte import document_bits, target_losses
from weft.eval.protocol import GenerateRequest, Generation, LikelihoodRequest
from weft.models import Decoder
from weft.ops.attention import PackedRows
from weft.tokenizer import Tokenizer


def plain_bits(model: Decoder, ids: list[int], eos: int) -> float:
    """The whole document in one pass, without windows."""
    tokens = torch.tensor([[eos, *ids]])
    hidden = model(tokens, PackedRows(torch.zeros_like(tokens, dtype=torch.int32)))
    logs = model.logits(hidden).double().log_softmax(-1)[0]
    return -float(logs[torch.arange(len(ids) + 1), torch.tensor([*ids, eos])].sum()) / math.log(2)


def test_equals_whole_documents_when_they_fit(
    tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    model, eos = tiny_decoder(), tiny_tokenizer.eos_id
    texts = ["", "今天天气很好。", "def add(a, b):\n    return a + b\n", "😀"]
    encoded = tiny_tokenizer.encode_batch(texts)
    tokens = np.concatenate([[*ids, eos] for ids in encoded])
    lengths = np.array([len(ids) + 1 for ids in encoded])
    bits = document_bits(model, tokens, lengths, eos, context=128, rows=2)
    assert_allclose(bits, [plain_bits(model, ids, eos) for ids in encoded], rtol=1e-5)


def test_without_overlap_equals_the_rows_of_the_loader(
    data_folder: Path, tiny_decoder: Callable[..., Decoder]
) -> None:
    model = tiny_decoder()
    shards = open_split(data_folder / SHARDS, "test")
    reader = shards.reader
    assert reader.lengths.max() > 32, "some documents must be cut"
    bits = document_bits(model, reader.tokens, reader.lengths, shards.eos_id, context=32, rows=3)
    loader = Loader(data_folder / SHARDS, "test", 32, max_padding=1.0)
    nats = sum(target_losses(model, batch, None).sum() for batch in loader.sequential(4))
    assert_allclose(bits.sum() * math.log(2), nats, rtol=1e-6)
    half = document_bits(model, reader.tokens, reader.lengths, shards.eos_id, context=32, overlap=16)
    assert half.shape == bits.shape
    assert not np.allclose(half, bits), "windows that overlap give other contexts"


def test_bfloat16_is_near(data_folder: Path, tiny_decoder: Callable[..., Decoder]) -> None:
    shards = open_split(data_folder / SHARDS, "test")
    model, reader = tiny_decoder(), shards.reader
    exact, near = (
        document_bits(model, reader.tokens, reader.lengths, shards.eos_id, context=64, dtype=dtype).sum()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert_allclose(near, exact, rtol=0.05)


def no_engine(requests: object) -> list[Generation]:
    return [Generation("text", True)]


def test_decoder_model_likelihoods(tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer) -> None:
    model = tiny_decoder()
    judge = DecoderModel(model, tiny_tokenizer, no_engine)
    texts = ["The quick brown fox", "今天天气很好"]
    expected = [
        -plain_bits(model, tiny_tokenizer.encode(text), tiny_tokenizer.eos_id) * math.log(2) for text in texts
    ]
    assert_allclose(judge.loglikelihood_rolling(texts), expected, rtol=1e-5)
    assert judge.loglikelihood_rolling([]) == []
    whole = judge.loglikelihood([LikelihoodRequest("", texts[1])])[0]
    first = judge.loglikelihood([LikelihoodRequest("", texts[1][:4])])[0]
    rest = judge.loglikelihood([LikelihoodRequest(texts[1][:4], texts[1][4:])])[0]
    assert whole.log_probability < 0
    assert not whole.is_greedy
    ids, cut = tiny_tokenizer.encode(texts[1]), tiny_tokenizer.encode(texts[1][:4])
    if ids[: len(cut)] == cut:
        assert whole.log_probability == pytest.approx(first.log_probability + rest.log_probability, rel=1e-5)
    assert judge.generate_until([GenerateRequest("x")]) == [Generation("text", True)]


def test_decoder_model_knows_the_greedy_continuation(
    tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    model = tiny_decoder()
    judge = DecoderModel(model, tiny_tokenizer, no_engine)
    tokens = torch.tensor([[tiny_tokenizer.eos_id, *tiny_tokenizer.encode("The dog")]])
    hidden = model(tokens, PackedRows(torch.zeros_like(tokens, dtype=torch.int32)))
    order = model.logits(hidden)[0, -1].argsort(descending=True).tolist()
    best = tiny_tokenizer.decode(order[:1])
    if tiny_tokenizer.encode("The dog" + best)[-1] == order[0]:
        assert judge.loglikelihood([LikelihoodRequest("The dog", best)])[0].is_greedy


def test_decoder_model_refuses_what_it_cannot_score(
    tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    judge = DecoderModel(tiny_decoder(), tiny_tokenizer, no_engine)
    for continuation in ("", "word " * 400):
        with pytest.raises(DataError, match="context of 128"):
            judge.loglikelihood([LikelihoodRequest("a", continuation)])
    long = judge.loglikelihood([LikelihoodRequest("word " * 400, "and")])
    assert long[0].log_probability < 0, "a long context only loses its beginning"

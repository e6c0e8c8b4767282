"""Figures of tokenizers against plain counts, and tokenizers that are not byte-level."""

from __future__ import annotations

import pytest
import tokenizers

from weft.tokenizer import Tokenizer, train
from weft.tokenizer.compression import compress, single_byte_tokens, total
from weft.tokenizer.fast import ParityError

PASSAGES = {
    "han": ["春眠不觉晓，处处闻啼鸟。", "语言模型一个字一个字地写。😀"],
    "latin": [
        "The quick brown fox jumps over the lazy dog.",
        "It was the best of times.\n",
        "éà <|endoftext|>",
    ],
}


@pytest.fixture(scope="module")
def own() -> Tokenizer:
    return train(PASSAGES["latin"] * 20, 384)


@pytest.fixture(scope="module")
def foreign() -> Tokenizer:
    """Byte fallback as in SentencePiece, and a normaliser that lower-cases, so not every text comes back."""
    vocab = {"<unk>": 0, "</s>": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    vocab |= {letter: 258 + index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz .")}
    content = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    content.normalizer = tokenizers.normalizers.Lowercase()
    steps = [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    content.decoder = tokenizers.decoders.Sequence(steps)
    return Tokenizer(content.to_str(), {"eos_token": "</s>"})


def test_figures_equal_plain_counts(own: Tokenizer) -> None:
    found = compress(own, PASSAGES)
    assert list(found) == ["han", "latin"]
    for language, texts in PASSAGES.items():
        ids = [own.encode(text) for text in texts]
        one = found[language]
        assert one.texts == one.exact == len(texts)
        assert one.bytes == sum(len(text.encode()) for text in texts)
        assert one.tokens == sum(map(len, ids))
        assert one.single == sum(len(own.token_bytes(i)) == 1 for text in ids for i in text)
        assert one.bytes_per_token == one.bytes / one.tokens and one.single_share == one.single / one.tokens
        assert one.seconds >= 0 and one.bytes_per_second > 0
    # Trained on English alone, it spells Han text byte by byte.
    assert found["han"].single_share > 0.95 > found["latin"].single_share
    everything = total(found)
    assert everything.tokens == found["han"].tokens + found["latin"].tokens and everything.texts == 5


def test_a_tokenizer_with_byte_fallback(foreign: Tokenizer) -> None:
    assert not foreign.is_byte_level and single_byte_tokens(foreign).sum() == 256
    found = compress(foreign, {"han": ["春"], "latin": ["fox.", "Fox."]})
    assert found["han"].single == found["han"].tokens == 3 and found["han"].exact == 1
    assert found["latin"].single == 0 and found["latin"].exact == 1


def test_more_texts_than_a_batch(own: Tokenizer) -> None:
    texts = [f"The dog {number} 犬" for number in range(700)]
    one = compress(own, {"latin": texts})["latin"]
    assert one.texts == one.exact == 700 and one.tokens == sum(len(own.encode(text)) for text in texts)


def test_a_fast_encoder_that_goes_wrong_is_not_used(own: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compress(own, PASSAGES)["han"].tokens
    whole = Tokenizer.encode_flat

    def broken(self: Tokenizer, texts: list[str], *, fast: bool = True) -> object:
        if fast:
            raise ParityError
        return whole(self, texts, fast=False)

    monkeypatch.setattr(Tokenizer, "encode_flat", broken)
    assert compress(own, PASSAGES)["han"].tokens == expected

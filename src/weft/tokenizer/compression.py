"""How well and how fast a tokenizer encodes text, by language."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.tokenizer.encode import Tokenizer
from weft.tokenizer.fast import Ends, Ids, ParityError

_BATCH = 256


@dataclass(frozen=True)
class Compression:
    """What one tokenizer makes of the texts of one language, or of all."""

    texts: int
    bytes: int
    tokens: int
    single: int
    """Tokens that stand for one byte; of a tokenizer with byte fallback, the fallback tokens."""
    exact: int
    """Texts that come back exactly from their tokens."""
    seconds: float
    """Processor time of encoding, summed over the threads that the library takes."""

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes a token; higher is better."""
        return self.bytes / max(1, self.tokens)

    @property
    def single_share(self) -> float:
        """Share of single-byte tokens; lower is better."""
        return self.single / max(1, self.tokens)

    @property
    def bytes_per_second(self) -> float:
        """Speed of encoding on one core."""
        return self.bytes / max(self.seconds, 1e-9)


def compress(tokenizer: Tokenizer, passages: Mapping[str, Sequence[str]]) -> dict[str, Compression]:
    """The figures of ``tokenizer`` by language."""
    single = single_byte_tokens(tokenizer)
    _encode(tokenizer, ["warm up 热身"])
    return {language: _compress(tokenizer, texts, single) for language, texts in passages.items()}


def total(figures: Mapping[str, Compression]) -> Compression:
    """All languages together."""
    every = list(figures.values())
    return Compression(
        texts=sum(one.texts for one in every),
        bytes=sum(one.bytes for one in every),
        tokens=sum(one.tokens for one in every),
        single=sum(one.single for one in every),
        exact=sum(one.exact for one in every),
        seconds=sum(one.seconds for one in every),
    )


def single_byte_tokens(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """Which tokens stand for a single byte, [vocab_size]."""
    marks = np.zeros(tokenizer.vocab_size, np.bool_)
    if tokenizer.is_byte_level:
        marks[:] = [len(tokenizer.token_bytes(token)) == 1 for token in range(tokenizer.vocab_size)]
    else:
        fallback = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in range(256)]
        marks[[token for token in fallback if token is not None]] = True
    return marks


def _compress(tokenizer: Tokenizer, texts: Sequence[str], single: npt.NDArray[np.bool_]) -> Compression:
    sizes = [len(text.encode("utf-8")) for text in texts]
    tokens = singles = exact = 0
    seconds = 0.0
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        began = time.process_time()
        ids, ends = _encode(tokenizer, batch)
        seconds += time.process_time() - began
        tokens += len(ids)
        singles += int(single[ids].sum())
        parts = np.split(ids, ends[:-1])
        exact += sum(tokenizer.decode(p.tolist()) == text for p, text in zip(parts, batch, strict=True))
    return Compression(len(texts), sum(sizes), tokens, singles, exact, seconds)


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Ids, Ends]:
    try:
        return tokenizer.encode_flat(texts)
    except ParityError:
        return tokenizer.encode_flat(texts, fast=False)

"""Reading many documents at once: each as alone, and long ones in windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weft.core.errors import UsageError
from weft.engine.reader import Reader, spread_windows
from weft.models.encoder import Encoder
from weft.models.encoder_config import EncoderConfig

MOST = 32


@pytest.fixture(scope="module")
def reader() -> Reader:
    shape = EncoderConfig(
        64,
        32,
        64,
        2,
        2,
        "ModernBertForTokenClassification",
        MOST,
        labels=("O", "B-x", "I-x"),
        local_attention=8,
    )
    model = Encoder(shape)
    noise = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3, generator=noise)
    return Reader(model, 0)


def documents(*lengths: int) -> list[list[int]]:
    chance = np.random.default_rng(1)
    return [chance.integers(1, 64, length).tolist() for length in lengths]


def test_documents_read_together_score_as_each_alone(reader: Reader) -> None:
    texts = documents(3, 32, 1, 17, 30, 8)
    together = reader.tokens(texts)
    for text, found in zip(texts, together, strict=True):
        assert found.shape == (len(text), 3)
        np.testing.assert_allclose(found, reader.tokens([text])[0], atol=1e-5)
    vectors = reader.vectors(texts)
    np.testing.assert_allclose(vectors[3], reader.vectors([texts[3]])[0], atol=1e-5)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 47, 48, 64, 65, 200])
def test_windows_cover_every_token_once_and_never_exceed_the_model(length: int, reader: Reader) -> None:
    windows = spread_windows(length, MOST)
    assert windows[0][0] == 0 and windows[-1][1] == length
    assert all(stop - first <= MOST for first, stop in windows)
    (text,) = documents(length)
    (found,) = reader.tokens_of_long([text])
    assert found.shape == (length, 3)
    # Every row of scores is that of the token in a window where it has something on both sides.
    alone = {first: reader.tokens([text[first:stop]])[0] for first, stop in windows}
    margin = MOST // 4 - 1
    for place, scores in enumerate(found):
        good = [
            first
            for first, stop in windows
            if first <= place < stop
            and (first == 0 or place - first >= margin)
            and (stop == length or stop - 1 - place >= margin)
        ]
        assert any(np.allclose(scores, alone[first][place - first], atol=1e-5) for first in good)


def test_what_is_too_long_or_empty_is_told(reader: Reader) -> None:
    with pytest.raises(UsageError, match="Text 1 has 33 tokens and this model reads 1 to 32"):
        reader.tokens(documents(3, 33))
    with pytest.raises(UsageError, match="Text 0 has 0 tokens"):
        reader.classes([[]])

"""One pass with forks against compressing every prefix from the beginning."""

from __future__ import annotations

import itertools
import lzma
import sys

import numpy as np
import pytest

from weft.core.errors import DataError, ResourceError
from weft.eval.baselines import lzma_
from weft.eval.baselines.lzma_ import LzmaBits

TRAIN = [f"def f{i}(x):\n    return x * {i} + {i * i % 97}\n".encode() for i in range(400)]
TEST = [TRAIN[7] * 3, "今天天气很好，我们去公园散步。\n".encode() * 5, b"\x00\xff" * 300, b"x"]


def size(data: bytes) -> int:
    options = {
        "id": lzma.FILTER_LZMA2,
        "preset": lzma_.PRESET,
        "dict_size": 1 << 20,
        "lc": 4,
        "lp": 0,
        "pb": 0,
    }
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=[options]))


def test_equals_the_difference_of_whole_compressions() -> None:
    with LzmaBits(TRAIN, TEST) as job:
        bits = job.result()
    prefixes = [b"".join(TRAIN + TEST[:n]) for n in range(len(TEST) + 1)]
    assert bits.tolist() == [8 * (size(b) - size(a)) for a, b in itertools.pairwise(prefixes)]
    assert bits[0] < 8 * len(TEST[0]) / 4, "text that stands in the training text must be cheap"


def test_without_training_text() -> None:
    with LzmaBits([], [b"abc" * 1000]) as job:
        assert job.result().shape == (1,)


def test_leaving_early_ends_the_process() -> None:
    generator = np.random.default_rng(0)
    with LzmaBits([generator.bytes(8 << 20)], [b"x"]) as job:
        process = job._process
    assert process.poll() is not None


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lzma_, "LARGEST_DICTIONARY", 10)
    with pytest.raises(DataError, match="dictionary"):
        LzmaBits([b"12345678"], [b"123"])
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with LzmaBits([b"a"], [b"b"]) as job, pytest.raises(ResourceError, match="code 1"):
        job.result()

"""A small data folder of real text, made once, that the trainer's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.data.config import DataConfig, SplitConfig, TokenizerConfig
from weft.data.prepare import prepare
from weft.data.sources import standard_library


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a few packages of the standard library, vocabulary 512."""
    out = tmp_path_factory.mktemp("data")
    sources = [standard_library() / name for name in ("json", "email", "http", "logging", "concurrent")]
    config = DataConfig(split=SplitConfig(valid=0.15, test=0.15), tokenizer=TokenizerConfig(vocab_size=512))
    prepare(config, sources, out)
    return out

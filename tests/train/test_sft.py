"""Fine-tuning on pairs: only the answers carry loss, and a run goes on exactly where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_session import StopAt, losses, make_run, train, weights

from weft.core.errors import ConfigError, Interrupted
from weft.data import supervised
from weft.data.answers import AnswerLoader
from weft.data.config import SplitConfig
from weft.tokenizer import Tokenizer


@pytest.fixture
def pairs(data_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    lines = [{"source": f"{a} 加 {b}", "target": f"{a + b}"} for a in range(20) for b in range(20)]
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    settings = supervised.SupervisedConfig(form="pairs", split=SplitConfig(valid=0.2))
    supervised.prepare([file], Tokenizer.load(data_folder / "tokenizer"), folder, settings)
    return folder


def test_only_answers_count_loss_falls_and_resume_is_exact(pairs: Path, tmp_path: Path) -> None:
    run = make_run(pairs, "objective.name=sft")
    train(run, tmp_path / "whole")
    found = losses(tmp_path / "whole")
    assert found[-1] < found[0]
    with pytest.raises(Interrupted):
        train(run, tmp_path / "parts", hooks=[StopAt(6)])
    train(run, tmp_path / "parts")
    assert losses(tmp_path / "parts") == found
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    batch = AnswerLoader(pairs / "shards", "train", 64, 4).gather(range(4))
    assert 0 < batch.target_count < batch.tokens.size / 2
    with pytest.raises(ConfigError, match="other settings"):
        train(make_run(pairs), tmp_path / "whole")


def test_a_mixture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.path alone"):
        make_run(Path("x"), "objective.name=sft", 'mixture.sources=["a"]')

"""lm-evaluation-harness itself, where it is installed, asks a model of ours from files of this machine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from weft.eval.decoder_model import DecoderModel
from weft.eval.lm_harness import adapter
from weft.eval.protocol import LikelihoodRequest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval"),
    pytest.mark.filterwarnings("ignore"),
]
ROWS = [
    {"question": "The quick brown", "choices": [" fox", " lazy dog"], "gold": 0},
    {"question": "好好学习，", "choices": ["天天向上", "明天再说"], "gold": 0},
    {"question": "import", "choices": [" os", " the quick"], "gold": 1},
]


def test_its_own_evaluation_runs_over_our_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_decoder, tiny_tokenizer
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import lm_eval

    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    task = {
        "task": "ours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    model = DecoderModel(tiny_decoder(), tiny_tokenizer, lambda _: [])
    found = lm_eval.simple_evaluate(model=adapter(model), tasks=[task], bootstrap_iters=0, log_samples=True)
    right = 0
    for row, sample in zip(ROWS, found["samples"]["ours"], strict=True):
        asked = [LikelihoodRequest(str(row["question"]), str(choice)) for choice in row["choices"]]  # type: ignore[attr-defined]
        scores = [one.log_probability for one in model.loglikelihood(asked)]
        assert [one[0][0] for one in sample["resps"]] == pytest.approx(scores)
        right += scores.index(max(scores)) == row["gold"]
    assert found["results"]["ours"]["acc,none"] == pytest.approx(right / len(ROWS))

"""The report from whatever a run has left, whole or in part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weft.core import manifest
from weft.core.errors import DataError
from weft.recipes.curves import write_curves
from weft.recipes.report import write_report


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def training_files(run: Path, steps: int = 30) -> None:
    run.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, steps + 1):
        record = {"step": step, "loss": 8 / step, "learning_rate": 0.01, "gradient_norm": 1.0}
        record |= {"tokens_per_second": 9000.0} | ({"validation_loss": 9 / step} if step % 10 == 0 else {})
        lines.append(json.dumps(record))
    # A killed run leaves half a line.
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 31, "lo']))
    (run / "resolved.toml").write_text('title = "<今天>"\n', encoding="utf-8")
    notes = [{"name": "model.hidden_size", "value": 128, "reason": "fits the budget"}]
    (run / "derived.json").write_text(json.dumps(notes))


def demo_files(folder: Path) -> None:
    training_files(folder / "run")
    figures = {"parameters": 1_380_000, "tokens": 8_000_000, "seconds": 300.0, "peak_share": 0.34}
    manifest.write(folder / "run", command="train", config="", inputs={}, figures=figures)
    (folder / "data").mkdir()
    count = {"documents": 1700, "bytes": 12_000_000}
    figures = {"in": count, "kept": count, "dropped": {"near duplicate": count}, "splits": {"train": count}}
    manifest.write(folder / "data", command="data", config="a = 1\n", inputs={}, figures=figures)
    parse = {
        "functions": 9,
        "model": estimate(0.7),
        "ngram": estimate(0.2),
        "model_samples": ["def f(): 1<2"],
    }
    bits = {"model": estimate(1.0), "lzma": estimate(1.1), "ngram": estimate(1.4)}
    evaluation = {"split": "test", "documents": 70, "bytes": 9000, "bits_per_byte": bits, "parse": parse}
    (folder / "eval.json").write_text(json.dumps(evaluation))
    (folder / "samples.json").write_text(json.dumps([{"prompt": "今", "text": "天<script>"}]))


def test_a_demo_has_every_section(tmp_path: Path) -> None:
    demo_files(tmp_path)
    write_report(tmp_path, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in (
        "Summary", "Evaluation on held-out text", "Samples", "Training", "Data", "Machine and configuration",
        "评测", "1.38M", "5 min 0 s", "near duplicate", "validation", "fits the budget", "&lt;今天&gt;",
        "<b>今</b>天&lt;script&gt;", "def f(): 1&lt;2",
    ):  # fmt: skip
        assert words in text, words
    # Four curves, the funnel and two bar charts, each in two languages.
    assert text.count("<svg") == text.count("</svg>") == 14


def test_figures_of_validation_have_curves_of_their_own(tmp_path: Path) -> None:
    training_files(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()[:-1]]
    lines = [one | ({"validation_accuracy": 0.5} if "validation_loss" in one else {}) for one in lines]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    files = write_curves(tmp_path, tmp_path / "curves" / "mine")
    assert [file.name for file in files] == ["mine-loss.svg", "mine-accuracy.svg"]
    assert "validation accuracy" in files[1].read_text(encoding="utf-8")
    write_report(tmp_path, tmp_path / "report.html")
    assert "验证准确率" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_parts_that_are_missing_are_left_out(tmp_path: Path) -> None:
    training_files(tmp_path, steps=1)
    write_report(tmp_path, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Training" in text
    assert "Evaluation on held-out text" not in text
    demo_files(tmp_path / "demo")
    (tmp_path / "demo" / "run" / "metrics.jsonl").unlink()
    evaluation = json.loads((tmp_path / "demo" / "eval.json").read_text())
    (tmp_path / "demo" / "eval.json").write_text(json.dumps({**evaluation, "parse": None}))
    write_report(tmp_path / "demo", tmp_path / "other.html")
    assert "functions that parse" not in (tmp_path / "other.html").read_text(encoding="utf-8")


def test_bad_input(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="no run to report"):
            write_report(folder, tmp_path / "report.html")
    training_files(tmp_path)
    (tmp_path / "eval.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()

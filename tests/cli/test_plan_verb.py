"""``weft plan`` as a user sees it."""

import json

import pytest
from click.testing import CliRunner

from weft.cli.main import main
from weft.parallel.planner import calibration

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
ROWS = ("data.sequence_length=4096", "train.batch_tokens=65536", "optimizer.name=adamw")


@pytest.fixture(autouse=True)
def _no_calibration(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return str(folder)


def run(*arguments):
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def test_the_answer_has_ranks_kinds_reasons_and_families(model):
    result = run(
        "--model", model, "--on", "8 x h100", *ROWS, "train.steps=1000", "--price", "2.5", "--top", "3"
    )
    assert result.exit_code == 0, result.output
    text = result.output
    for words in (
        "8.03 B parameters on 8 x h100",
        "nothing was measured",
        "tokens/s",
        "cost",
        "optimiser state",
    ):
        assert words in text
    assert "Train with " in text and "the closest other family" in text
    assert "dp: does not fit: needs" in text
    places = [
        line.split()[0]
        for line in text.split("weights")[0].splitlines()[1:]
        if line[:1] == " " or line[:1].isdigit()
    ]
    assert [place for place in places if place.isdigit()] == ["1", "2", "3"]


def test_in_chinese(model):
    result = run("--model", model, "--on", "8 x h100", *ROWS, "--lang", "zh")
    assert result.exit_code == 0, result.output
    for words in ("参数", "建议使用", "为什么", "其他各类方案", "放不下", "优化器状态", "峰值占比"):
        assert words in result.output


def test_the_record_for_programs(model, tmp_path):
    file = tmp_path / "plan.json"
    result = run(
        "--model", model, "--on", "8 x h100", *ROWS, "train.steps=1000", "--price", "2", "--json", file,
        "--html", tmp_path / "plan.html", "--scale", "32",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads(file.read_text())
    best = record["ranked"][0]
    assert best["memory_bytes"]["total"] == pytest.approx(
        sum(v for k, v in best["memory_bytes"].items() if k != "total")
    )
    assert best["run_seconds"] == pytest.approx(1000 * best["step_seconds"]["total"])
    assert best["run_cost"] == pytest.approx(best["run_seconds"] / 3600 * 16)
    assert {entry["family"] for entry in record["lost"]} >= {"dp", "tp", "pp", "cp"}
    assert [point["devices"] for point in record["scaling"]] == [8, 16, 32]
    assert all(point["simulated"] for point in record["scaling"])
    page = (tmp_path / "plan.html").read_text()
    assert "<svg" in page and "simulated, not run" in page and "模拟" in page and "<script" not in page
    assert "simulated, not run" in result.output


def test_one_layout_is_judged(model):
    good = run("--model", model, "--on", "8 x h100", *ROWS, "--parallel", "fsdp=8")
    assert good.exit_code == 0 and "activations" in good.output
    bad = run("--model", model, "--on", "8 x h100", *ROWS, "--parallel", "dp=8")
    assert bad.exit_code == 1
    assert "needs" in bad.output and "the smallest change that helps" in bad.output and "fsdp=8" in bad.output


def test_the_winner_is_traced(model):
    result = run("--model", model, "--on", "2 x h200", "data.sequence_length=1024", "train.batch_tokens=8192",
                 "optimizer.name=adamw", "--trace")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "traced on fake tensors, 2 fake processes" in result.output


def test_what_cannot_fit_is_refused_with_a_way_out(model):
    result = run("--model", model, "--on", "1 x rtx4090", *ROWS)
    assert result.exit_code == 1
    assert "Nothing fits on 1 x rtx4090" in result.output
    assert "the smallest change that helps: use" in result.output
    chinese = run("--model", model, "--on", "1 x rtx4090", *ROWS, "--lang", "zh")
    assert "放不下" in chinese.output and "最小的可行改动" in chinese.output


def test_this_machine_without_a_calibration(tmp_path):
    result = run("--on", "auto", "--vocab", "512", "model.hidden_size=64", "train.batch_tokens=4096")
    assert result.exit_code == 0, result.output
    assert "weft plan --calibrate measures" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--on", "8 x h1000"), "did you mean 'h100'"),
        (("--top", "0"), "--top 0 must be at least 1"),
        ((), "model.hidden_size is not set"),
        (("--vocab", "512", "--parallel", "xx=2", "model.hidden_size=64"), "not NAME=VALUE"),
        (("--calibrate", "--fp8", "model.hidden_size=64", "--vocab", "512"), "leave --fp8 out"),
    ],
)
def test_wrong_requests_are_one_sentence(arguments, words):
    result = run("data.sequence_length=512", "--vocab", "512", *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output and "Traceback" not in result.output


def test_the_vocabulary_must_be_known():
    result = run("model.hidden_size=64")
    assert result.exit_code == 2 and "give --vocab" in result.output


def test_calibrate_measures_and_saves(monkeypatch, tmp_path):
    from weft.parallel.planner import calibrate as module

    asked = []

    def measured(dtype, modules, say):
        asked.append((dtype, modules))
        say("2 processes")
        return calibration.Calibration("m", dtype, 1e12, (), {}, 0.0, 1.0, 0.0, 1.5)

    monkeypatch.setattr(module, "calibrate", measured)
    result = run("--calibrate", "--on", "2 x cpu")
    assert result.exit_code == 0, result.output
    assert asked and asked[0][1] == ["weft.train.session"]
    assert list((tmp_path / "cache" / "weft" / "planner").iterdir())

"""Benchmarks from small files in the published formats, with a model whose likelihoods are known."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import tarfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from weft.core.errors import DataError, ResourceError, UsageError
from weft.eval.harness import evaluate
from weft.eval.harness_files import arc, cmmlu, mmlu, openbookqa, passages, piqa
from weft.eval.lm_harness import adapter
from weft.eval.protocol import GenerateRequest, Generation, Likelihood, LikelihoodRequest


class Knowing:
    """Likes ``liked`` continuations: -1 each, and -2 a character of the others."""

    def __init__(self, *liked: str) -> None:
        self.liked, self.asked = liked, []

    def loglikelihood(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        self.asked += requests
        return [
            Likelihood(-1.0, True)
            if one.continuation in self.liked
            else Likelihood(-2.0 * len(one.continuation), False)
            for one in requests
        ]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        return [-float(len(text)) for text in texts]

    def generate_until(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        return [Generation(f"{one.max_new_tokens} {one.until} {one.temperature}", True) for one in requests]


def figures(record: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in record["figures"]}


def test_lambada(tmp_path: Path) -> None:
    file = tmp_path / "lambada.jsonl"
    texts = ["He called for Anna", "The sky was over  Rome", "Anna saw Peter, then Anna"]
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    assert [(one.context, one.word) for one in passages(file)][1] == ("The sky was over ", " Rome")
    model = Knowing(" Anna")
    found = figures(evaluate(model, "lambada", file))
    assert found["accuracy"]["model"]["value"] == pytest.approx(2 / 3)
    assert found["accuracy"]["baselines"]["last name"]["value"] == 0
    assert found["perplexity"]["model"]["value"] == pytest.approx(math.exp((1 + 1 + 10) / 3))
    assert model.asked[0] == LikelihoodRequest("He called for", " Anna")
    assert evaluate(model, "lambada", file, limit=1)["items"] == 1
    file.write_text('{"text": "alone"}\n')
    with pytest.raises(DataError, match="is no passage"):
        evaluate(model, "lambada", file)


def packed(file: Path, tables: dict[str, str]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, text in tables.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return file


def test_mmlu_asks_for_letters_with_examples_before(tmp_path: Path) -> None:
    tables = {
        "data/dev/world_history_dev.csv": "Who?,w,x,y,z,C\n",
        "data/test/world_history_test.csv": '"Where, when?",one,two,three,four,B\nWhy?,one,two,th,f,A\n',
        "data/test/anatomy_test.csv": "Bone?,a,b,c,ddd,D\n",
        "data/dev/anatomy_dev.csv": "Hand?,a,b,c,d,A\n",
    }
    file = packed(tmp_path / "mmlu.tar", tables)
    item = mmlu(file, 1)[1]
    assert item.context == (
        "The following are multiple choice questions (with answers) about world history.\n\n"
        "Who?\nA. w\nB. x\nC. y\nD. z\nAnswer: C\n\n"
        "Where, when?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    )
    assert item.options == (" A", " B", " C", " D") and item.gold == 1
    record = evaluate(Knowing(" B"), "mmlu", file)
    found = figures(record)["accuracy"]
    assert found["model"]["value"] == pytest.approx(1 / 3)
    assert found["baselines"]["chance"]["value"] == 0.25
    assert found["baselines"]["longest"]["value"] == pytest.approx(2 / 3)
    assert {row["name"]: row["model"]["value"] for row in record["by_group"]} == {
        "anatomy": 0.0,
        "world_history": 0.5,
    }
    with pytest.raises(UsageError, match="ask for no more shots"):
        mmlu(file, 2)
    folder = tmp_path / "folder" / "test"
    folder.mkdir(parents=True)
    (folder / "x_test.csv").write_text("Q?,a,b,c,d,E\n")
    with pytest.raises(DataError, match=r"test/x_test\.csv#0"):
        mmlu(tmp_path / "folder")


def test_cmmlu_has_a_header(tmp_path: Path) -> None:
    text = ",Question,A,B,C,D,Answer\n0,谁？,甲,乙,丙,丁,C\n"
    file = packed(tmp_path / "cmmlu.tar", {"dev/art.csv": text, "test/art.csv": text})
    [item] = cmmlu(file)
    assert item.context.endswith("谁？\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案：") and item.gold == 2


def test_options_in_instructions(tmp_path: Path) -> None:
    file = tmp_path / "arc.json"
    records = [
        {
            "instruction": "Please choose the correct answer to the question: Why: so?\n\n"
            "Answer1: because of it Answer2: no Answer3: it is\n\nAnswer format: answer1/answer2/answer3",
            "answer": "answer1",
        },
        {
            "instruction": "Please choose the correct solution to the question: open a jar\n\n"
            "Solution1: twist\n\nSolution2: shake it\n\nAnswer format: solution1/solution2",
            "answer": "solution2",
        },
    ]
    file.write_text(json.dumps(records))
    first, second = arc(file)
    assert first.context == "Question: Why: so?\nAnswer:"
    assert first.options == (" because of it", " no", " it is") and first.gold == 0
    assert second.texts == ("twist", "shake it") and second.gold == 1
    assert openbookqa(file)[1].context == "open a jar" and piqa(file) == arc(file)
    found = figures(evaluate(Knowing(" shake it"), "arc", file))
    assert found["accuracy"]["model"]["value"] == 0.5
    # Two nats a character of a continuation: " no" costs 6 for 2, " because of it" 28 for 13.
    assert found["accuracy_by_length"]["model"]["value"] == 1.0
    assert found["accuracy"]["baselines"]["longest"]["value"] == 1.0
    assert found["accuracy"]["baselines"]["chance"]["value"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    file.write_text(json.dumps([{"instruction": "who", "answer": "1"}]))
    with pytest.raises(DataError, match=r"arc\.json#0 has no options"):
        arc(file)


def test_unknown_benchmarks_and_shots(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'lambada'"):
        evaluate(Knowing(), "lambda", tmp_path)
    with pytest.raises(UsageError, match="no solved examples"):
        evaluate(Knowing(), "lambada", tmp_path, shots=1)
    with pytest.raises(DataError, match="There is no file"):
        evaluate(Knowing(), "mmlu", tmp_path / "none.tar")


def test_the_adapter_is_a_model_of_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ResourceError, match="pip install lm-eval"):
        adapter(Knowing())
    package, api, models = (types.ModuleType(f"lm_eval{end}") for end in ("", ".api", ".api.model"))
    models.LM = type("LM", (), {})
    for name, module in (("lm_eval", package), ("lm_eval.api", api), ("lm_eval.api.model", models)):
        monkeypatch.setitem(sys.modules, name, module)
    made = adapter(Knowing(" yes"))
    assert isinstance(made, models.LM)
    asked = [types.SimpleNamespace(args=("So", " yes")), types.SimpleNamespace(args=("So", " no"))]
    assert made.loglikelihood(asked) == [(-1.0, True), (-6.0, False)]
    assert made.loglikelihood_rolling([types.SimpleNamespace(args=("abc",))]) == [-3.0]
    settings = {"until": ["\n"], "max_gen_toks": 5, "temperature": 0.7}
    assert made.generate_until([types.SimpleNamespace(args=("x", settings))]) == ["5 ('\\n',) 0.0"]


@pytest.mark.skipif(not os.environ.get("WEFT_DATA"), reason="needs WEFT_DATA, a folder of data sets")
def test_the_real_files_have_their_official_numbers() -> None:
    folder = Path(os.environ["WEFT_DATA"]) / "lm_eval"
    assert len(passages(folder / "lambada" / "lambada_test.jsonl.zst")) == 5153
    questions = mmlu(folder / "mmlu" / "mmlu.tar.zst", 5)
    assert len(questions) == 14042 and len({one.group for one in questions}) == 57
    assert len({one.group for one in cmmlu(folder / "cmmlu" / "cmmlu.tar.zst", 5)}) == 67
    common = folder / "commonsense_mc"
    assert len(arc(common / "ARC-Easy-test.json.zst")) == 2376
    assert len(openbookqa(common / "openbookqa-test.json")) == 500
    found = piqa(common / "piqa-test.json.zst")
    assert len(found) == 1838 and all(len(one.options) == 2 for one in found)

"""The quality classifier learns, keeps, repeats and judges."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from weft.core.errors import ConfigError, DataError
from weft.data.classifier import CONFIG, WEIGHTS, Classifier, auc, features, train_classifier
from weft.data.config_quality import ClassifierConfig, ClassifierTraining
from weft.data.engine import daft
from weft.data.steps.classifier import drop_by_classifier

SMALL = ClassifierTraining(bits=12, epochs=3, held_out=0.3)
GOOD = (
    "the river runs slowly past the old mill",
    "她把提琴挂在墙上然后坐下来读书",
    "we walked home and talked of it",
)
BAD = ("buy cheap now click here free offer", "点击领取优惠加微信免费下载", "best price sale sale hot deals")


def write(folder: Path) -> tuple[Path, Path]:
    random = np.random.default_rng(3)
    for name, lines in (("good", GOOD), ("bad", BAD)):
        (folder / name).mkdir()
        for kind in range(2):
            rows = [
                {"text": f"{lines[n % 3]} {random.integers(1000)}", "more": [lines[random.integers(3)]]}
                for n in range(40)
            ]
            text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
            (folder / name / f"{kind}.jsonl").write_text(text, encoding="utf-8")
    return folder / "good", folder / "bad"


def test_it_learns_is_saved_and_repeats_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = write(tmp_path)
    model = train_classifier([good], [bad], tmp_path / "model", SMALL)
    assert model.figures["auc"] > 0.99 and model.figures["samples"] == {"good": 80, "bad": 80}
    assert "AUC on" in capsys.readouterr().err
    again = train_classifier([good], [bad], tmp_path / "again", SMALL)
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == (tmp_path / "again" / WEIGHTS).read_bytes()
    loaded = Classifier.load(tmp_path / "model")
    texts = pa.array(["", *GOOD, *BAD], pa.large_string())
    scores = loaded.score(texts)
    assert scores.tolist() == again.score(texts).tolist() and loaded.training == SMALL
    assert scores[1:4].min() > 0.5 > scores[4:].max()
    assert loaded.score(texts[:0]).tolist() == []
    # Without a compiler the features are the same.
    expected = features(texts, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("weft.data.words.library", lambda name: None)
        assert [part.tolist() for part in features(texts, SMALL)] == [part.tolist() for part in expected]


def test_features_are_hashed_ngrams_of_words() -> None:
    texts = pa.array(["The cat", "the cat sat", "", "春眠"], pa.large_string())
    indices, offsets = features(texts, ClassifierTraining(bits=20))
    assert np.diff(offsets).tolist() == [3, 5, 0, 3]
    rows = [indices[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert set(rows[0]) < set(rows[1]) and max(map(max, filter(None, rows))) < 1 << 20
    assert np.diff(features(texts, ClassifierTraining(ngrams=1))[1]).tolist() == [2, 3, 0, 2]


def test_auc_by_hand() -> None:
    assert auc(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 0, 1, 0])) == 0.75
    assert auc(np.array([0.5, 0.5]), np.array([1, 0])) == 0.5


def test_the_step_scores_text_and_drops_below_the_threshold(tmp_path: Path) -> None:
    good, bad = write(tmp_path)
    train_classifier([good], [bad], tmp_path / "model", SMALL)
    table = pa.table(
        {
            "kind": ["text", "text", "code", "text"],
            "text": pa.array([GOOD[1], BAD[1], BAD[0], None], pa.large_string()),
            "reason": pa.array([None, None, None, "binary"], pa.large_string()),
            "value": pa.array([None, None, None, "zero byte"], pa.large_string()),
        }
    )
    frame = daft.from_arrow(table)
    rows = drop_by_classifier(frame, ClassifierConfig(path=str(tmp_path / "model"))).to_arrow().to_pylist()
    assert [row["reason"] for row in rows] == [None, "classifier", None, "binary"]
    assert rows[0]["quality_score"] > 0.5 > rows[1]["quality_score"] == float(rows[1]["value"])
    assert rows[2]["quality_score"] is None and rows[3]["value"] == "zero byte"
    assert drop_by_classifier(frame, ClassifierConfig()) is frame


def test_what_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    good, bad = write(tmp_path)
    with pytest.raises(DataError, match="no usable classifier"):
        Classifier.load(tmp_path)
    train_classifier([good], [bad], tmp_path / "model", SMALL)
    record = json.loads((tmp_path / "model" / CONFIG).read_text())
    record["training"]["bits"] = 13
    (tmp_path / "model" / CONFIG).write_text(json.dumps(record))
    with pytest.raises(DataError, match="4096 weights for 13 bits"):
        Classifier.load(tmp_path / "model")
    (tmp_path / "one.txt").write_text("a single text")
    with pytest.raises(DataError, match=r"only [01] good samples"):
        train_classifier([tmp_path / "one.txt"], [bad], tmp_path / "x", SMALL)
    with pytest.raises(DataError, match="no samples to train"):
        train_classifier([], [], tmp_path / "x", SMALL)
    with pytest.raises(ConfigError, match="bits from 8 to 28"):
        ClassifierTraining(bits=40)

"""Texts that hold evaluation items are found, also across case, punctuation and line breaks."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core.errors import ConfigError, DataError
from weft.data.config_quality import ContaminationConfig
from weft.data.engine import daft
from weft.data.references import read_samples
from weft.data.steps.contamination import drop_contaminated, index_evaluation, list_hits

QUESTION = "Which planet of the solar system has the longest day, measured from noon to noon, in hours?"
ZH = "下列各项中关于长江流域气候特点的叙述正确的是哪一项"
STOCK = "Choose the best answer to the question below and write only its letter on the line"


@pytest.fixture
def sets(tmp_path: Path) -> ContaminationConfig:
    lines = [{"question": QUESTION, "choices": ["Venus", {"also": "Mars"}], "n": 3}, {"question": "Why?"}]
    lines += [{"question": f"{STOCK} {n}"} for n in range(12)]
    (tmp_path / "quiz.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    pq.write_table(pa.table({"题": [ZH], "id": [7]}), tmp_path / "zh.parquet")
    (tmp_path / "plain.txt").write_text("short\n" + " ".join(f"w{n}" for n in range(13)) + "\n")
    return ContaminationConfig(sets=(str(tmp_path),))


def run(
    folder: Path, config: ContaminationConfig, texts: list[str | None]
) -> tuple[list[dict[str, Any]], Any]:
    folder.mkdir()
    counts = index_evaluation(config, folder)
    table = pa.table(
        {
            "source": [f"s{n}" for n in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "reason": pa.array([None if text else "empty" for text in texts], pa.large_string()),
            "value": pa.array([None] * len(texts), pa.large_string()),
        }
    )
    frame = drop_contaminated(daft.from_arrow(table), folder).collect()
    assert frame.column_names == ["source", "text", "reason", "value"]
    return frame.to_arrow().to_pylist(), (counts, list_hits(frame, folder).to_arrow().to_pylist())


def test_contaminated_texts_are_dropped_with_set_and_item(tmp_path: Path, sets: ContaminationConfig) -> None:
    texts = [
        "A fine text about planets that asks nothing at all. " * 5,
        f"Before. {QUESTION.upper().replace(' ', chr(10))} After.",
        "前文。" + ZH[:7] + "，\n" + ZH[7:] + "。后文",
        f"{STOCK} as a phrase of many items",
        " ".join(f"W{n}," for n in range(13)),
        " ".join(f"w{n}" for n in range(12)) + " x",
        None,
        ZH[:12],
    ]
    rows, (counts, hits) = run(tmp_path / "work", sets, texts)
    assert [row["reason"] for row in rows] == [
        None, "contaminated", "contaminated", None, "contaminated", None, "empty", None,
    ]  # fmt: skip
    assert [row["value"] for row in rows if row["value"]] == ["quiz.jsonl#0", "zh.parquet#0", "plain.txt#1"]
    assert [row["text"] for row in rows] == texts
    assert counts == {
        "items": 15,
        "ngrams": 5 + 12 + (len(ZH) - 12) + 1,
        "short_texts": 4,
        "stock_phrases": 4,
    }
    assert {hit["source"] for hit in hits} == {"s1", "s2", "s4"}
    first = next(hit for hit in hits if hit["source"] == "s1")
    assert first == {
        "source": "s1", "set": "quiz.jsonl", "item": 0,
        "ngram": "which planet of the solar system has the longest day measured from noon",
    }  # fmt: skip
    assert sum(hit["source"] == "s2" for hit in hits) == len(ZH) - 12
    assert any(hit["ngram"] == " ".join(ZH[:13]) for hit in hits)


def test_fields_and_size_can_be_chosen(tmp_path: Path, sets: ContaminationConfig) -> None:
    other = ContaminationConfig(sets=sets.sets, fields=("choices",), ngram=2)
    rows, (counts, hits) = run(tmp_path / "work", other, [QUESTION, "w3 w4", "Venus"])
    assert [row["value"] for row in rows] == [None, "plain.txt#1", None]
    assert counts["short_texts"] == 3 and len(hits) == 1


def test_no_sets_find_nothing(tmp_path: Path) -> None:
    rows, (counts, hits) = run(tmp_path / "work", ContaminationConfig(), [QUESTION])
    assert rows[0]["reason"] is None and not hits and counts["ngrams"] == 0


def test_bad_sets_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"a": ')
    (tmp_path / "bad.parquet").write_bytes(b"no")
    for name in ("bad.jsonl", "bad.parquet"):
        with pytest.raises(DataError, match=rf"{name} cannot be read \(.*repair the file"):
            list(read_samples(tmp_path / name))
    with pytest.raises(DataError, match="no samples at"):
        list(read_samples(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="at least 2"):
        ContaminationConfig(ngram=1)

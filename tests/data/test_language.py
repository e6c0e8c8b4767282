"""Languages of texts, their shares, and which are kept."""

import pyarrow as pa
import pytest

from weft.core.errors import ConfigError
from weft.data.config_quality import LanguageConfig
from weft.data.engine import daft
from weft.data.kernels import buffers
from weft.data.steps.language import MIXED, SHARES, UNKNOWN, identify_language, languages, sample

EN = "The house stood on a hill above the river, and nobody had lived in it for years. "
ZH = "那座房子立在河边的小山上，已经很多年没有人住了。孩子们说，夜里能听见里面有音乐。"
HANT = "那座房子立在河邊的小山上，已經很多年沒有人住了。孩子們說，夜裡能聽見裡面有音樂。"
FR = "La maison se trouvait sur une colline au-dessus de la rivière, et personne n'y habitait plus. "
ROWS = [
    ("text", "latin", EN * 3), ("text", "han", ZH * 2), ("text", "han", HANT * 2), ("text", "latin", FR * 3),
    ("text", "han", ZH * 2 + "\n" + EN * 3), ("code", "python", "import os\n" * 9), ("text", "han", "好"),
    ("text", "latin", "zq"), ("text", None, None),
]  # fmt: skip


def identified(config: LanguageConfig) -> list[dict[str, object]]:
    table = pa.table(
        {
            "kind": [row[0] for row in ROWS],
            "language": pa.array([row[1] for row in ROWS], pa.large_string()),
            "text": pa.array([row[2] for row in ROWS], pa.large_string()),
            "reason": pa.array([None] * 8 + ["binary"], pa.large_string()),
            "value": pa.array([None] * 8 + ["zero byte"], pa.large_string()),
        }
    )
    rows: list[dict[str, object]] = identify_language(daft.from_arrow(table), config).to_arrow().to_pylist()
    return rows


def test_languages_and_shares() -> None:
    rows = identified(LanguageConfig())
    found = [row["language"] for row in rows]
    assert found[:4] == ["en", "zh", "zh-Hant", "fr"] and found[5:] == ["python", "zh", UNKNOWN, None]
    assert [row[MIXED] for row in rows] == [False] * 4 + [True] + [False] * 4
    shares = {entry["language"]: entry["share"] for entry in rows[4][SHARES]}  # type: ignore[attr-defined]
    assert set(shares) == {"en", "zh"} and 0.9 < sum(shares.values()) <= 1.0
    assert rows[5][SHARES] == [] and all(row["reason"] is None for row in rows[:8])


def test_texts_of_other_languages_are_dropped_with_their_share() -> None:
    rows = identified(LanguageConfig(keep=("en", "zh"), min_share=0.8))
    assert [row["reason"] for row in rows] == [
        None, None, "language", "language", None, None, None, "language", "binary",
    ]  # fmt: skip
    assert str(rows[3]["value"]).startswith("fr 0.9") and rows[8]["value"] == "zero byte"


def test_a_sample_is_cut_between_characters() -> None:
    for text in (ZH * 40, "a" + ZH * 40, "😀é" * 300):
        data, offsets = buffers(pa.array(["xx", text, "yy"], pa.large_string()))
        part = sample(data, int(offsets[1]), int(offsets[2]), 256).decode()
        assert len(part.encode()) <= 257 and part.split("\n")[0] == text[: len(part.split("\n")[0])]
        assert part.split("\n")[1] in text
    assert sample(data, 0, 2, 256) == b"xx"


def test_what_cld2_refuses_is_unknown_and_off_means_off() -> None:
    assert languages(pa.array(["a\x01b"]), pa.array([True]), ["latin"], 64) == [[(UNKNOWN, 1.0)]]
    frame = daft.from_pydict({"text": ["x"]})
    assert identify_language(frame, LanguageConfig(identify=False)) is frame
    with pytest.raises(ConfigError, match="at least 64"):
        LanguageConfig(sample_bytes=3)

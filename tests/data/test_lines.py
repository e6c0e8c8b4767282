"""Lines that many documents share are removed, whatever the order of documents."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.errors import ConfigError
from weft.data import kernels
from weft.data.config_quality import LinesConfig
from weft.data.engine import daft
from weft.data.steps.lines import COMMON_LINES, find_common_lines, remove_common_lines
from weft.data.words import (
    line_hashes,
    line_hashes_plain,
    ngram_hashes_plain,
    ngrams,
    word_hashes,
    word_hashes_plain,
    words,
)

NOTICE, MENU = "Copyright 2021, all rights reserved.", "网站首页 新闻中心 产品展示 联系我们 关于我们"
TEXTS = st.lists(st.one_of(st.text(max_size=40), st.text("Ab1２é春眠 \n，ＡÅµ", max_size=40)), max_size=6)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_native_hashes_equal_the_plain_ones(texts: list[str]) -> None:
    if kernels.library("words") is None:
        pytest.skip("no compiler")
    column = pa.array(texts, pa.large_string())
    for ours, expected in zip(word_hashes(column), word_hashes_plain(column), strict=True):
        assert ours.tolist() == expected.tolist()
    for ours, expected in zip(line_hashes(column), line_hashes_plain(column), strict=True):
        assert ours.tolist() == expected.tolist()


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(1, 4))
def test_ngrams_stay_within_their_texts(texts: list[str], size: int) -> None:
    hashes, offsets = word_hashes(pa.array(texts, pa.large_string()))
    grams, inside = ngrams(hashes, offsets, size)
    expected: list[tuple[str, ...]] = []
    for text in texts:
        found = [word for word, _ in words(text)]
        expected.extend(tuple(found[i : i + size]) for i in range(len(found) - size + 1))
    assert inside.sum() == len(expected)
    assert grams.tolist() == ngram_hashes_plain(hashes, size).tolist()
    assert len(set(grams[inside].tolist())) == len(set(expected))


def frame(order: int = 1) -> Any:
    rows = [
        (
            "text",
            f"s{n:02d}",
            f"Own line number {'abcdefghij'[n]} of text.\n{NOTICE.replace('2021', str(n))}\n\n{MENU}",
        )
        for n in range(8)
    ]
    rows.append(("code", "s90", f"# {NOTICE}\nx = 1"))
    rows.append(("text", "s91", f"{NOTICE.upper()}\nyes\nyes"))
    rows = rows[::order]
    reasons = [None] * len(rows)
    return daft.from_arrow(
        pa.table(
            {
                "kind": [row[0] for row in rows],
                "source": [row[1] for row in rows],
                "text": [row[2] for row in rows],
                "reason": pa.array(reasons, pa.large_string()),
                "value": pa.array(reasons, pa.large_string()),
            }
        )
    )


def run(folder: Path, config: LinesConfig, order: int = 1, parts: int = 1) -> dict[str, dict[str, Any]]:
    folder.mkdir()
    find_common_lines(frame(order), config, folder, parts)
    rows = remove_common_lines(frame(order), config, folder).to_arrow().to_pylist()
    return {row["source"]: row for row in rows}


def test_common_lines_are_removed_and_counted(tmp_path: Path) -> None:
    out = run(tmp_path / "a", LinesConfig(unit="line", max_documents=7))
    assert out["s03"]["text"] == "Own line number d of text.\n" and out["s03"][COMMON_LINES] == 2
    assert out["s90"]["text"].startswith("# Copyright"), "code is left alone"
    assert out["s91"]["text"] == "yes\nyes" and out["s91"][COMMON_LINES] == 1
    out = run(tmp_path / "b", LinesConfig(unit="line", max_documents=8))
    assert MENU in out["s03"]["text"] and "Copyright" not in out["s03"]["text"]
    out = run(tmp_path / "c", LinesConfig(unit="line", max_documents=9))
    assert all(row[COMMON_LINES] == 0 for row in out.values())


def test_one_document_may_keep_them_and_neither_order_nor_partitions_matter(tmp_path: Path) -> None:
    config = LinesConfig(unit="line", max_documents=5, keep="first")
    out = run(tmp_path / "a", config)
    assert MENU in out["s00"]["text"] and "Copyright" in out["s00"]["text"]
    assert out["s00"][COMMON_LINES] == 0 and all(out[f"s0{n}"][COMMON_LINES] == 2 for n in range(1, 8))
    assert run(tmp_path / "b", config, order=-1, parts=3) == out


def test_paragraphs(tmp_path: Path) -> None:
    out = run(tmp_path / "a", LinesConfig(unit="paragraph", max_documents=3))
    assert out["s02"]["text"].endswith("all rights reserved.") and out["s02"][COMMON_LINES] == 1


def test_a_document_of_common_lines_alone_is_dropped_with_its_text(tmp_path: Path) -> None:
    texts = ["Own words here, nobody else's.\n\nA paragraph that two have.", "A paragraph that two have.\n\n"]
    nothing = pa.nulls(2, pa.large_string())
    columns = {"kind": ["text"] * 2, "source": ["a", "b"], "text": texts, "reason": nothing, "value": nothing}
    given, config = pa.table(columns), LinesConfig(unit="paragraph", max_documents=1, keep="first")
    find_common_lines(daft.from_arrow(given), config, tmp_path)
    rows = remove_common_lines(daft.from_arrow(given), config, tmp_path).sort("source").to_arrow().to_pylist()
    assert [row["text"] for row in rows] == texts
    assert [(row["reason"], row["value"]) for row in rows] == [(None, None), ("common_lines", "1")]


def test_nothing_in_common(tmp_path: Path) -> None:
    tmp_path.joinpath("x").mkdir()
    empty = frame().where(daft.col("source") == daft.lit("none"))
    assert find_common_lines(empty, LinesConfig(unit="line"), tmp_path / "x") == 0
    rows = remove_common_lines(frame(), LinesConfig(unit="line"), tmp_path / "x").to_arrow().to_pylist()
    assert all(row[COMMON_LINES] == 0 for row in rows) and len(rows) == 10
    with pytest.raises(ConfigError, match="at least 1"):
        LinesConfig(max_documents=0)

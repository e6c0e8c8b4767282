"""Statistics and quality rules: natively and plainly the same, and as datatrove has them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.errors import ConfigError
from weft.data import kernels
from weft.data.config_quality import C4Config, GopherConfig, QualityConfig, RepetitionConfig
from weft.data.engine import daft
from weft.data.steps import c4
from weft.data.steps.quality import judge_quality, judge_texts
from weft.data.textstats import NAMES, text_stats, text_stats_plain

PIECES = [
    "the", "cat", "sat on", "…", "...", ".", "。", "！", "春眠", "不觉晓", "了", " ", "  ", "\n", "\n\n",
    "\r\n", "\u2028", "\u3000", "\x85", "#", "•", "-", '"', "don't", "😀", "👩\u200d👧", "é", "e\u0301", "１",
    "abc_d", "한국", "\t",
]  # fmt: skip
ANY = st.text(max_size=60)
JOINED = st.lists(st.sampled_from(PIECES), max_size=80).map("".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(ANY, JOINED), max_size=5))
def test_native_statistics_equal_the_plain_ones(texts: list[str]) -> None:
    if kernels.library("text") is None:
        pytest.skip("no compiler")
    column = pa.array(texts, pa.large_string())
    native, plain = text_stats(column, short_line=4).table, text_stats_plain(column, short_line=4).table
    for name, ours, expected in zip(NAMES, native.T.tolist(), plain.T.tolist(), strict=True):
        assert ours == expected, name


C4_PIECES = [
    *PIECES, "[1]", "[edit]", "[citation needed]", "[", "12]", "{", "JavaScript", "Lorem Ipsum",
    "terms of use", "cookie policy", "We use cookies.", " He said so.", "一二三。四五", "x" * 12,
    '?"', "...\n",
]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(ANY, st.lists(st.sampled_from(C4_PIECES), max_size=60).map("".join)), max_size=5),
    st.booleans(),
    st.integers(-1, 4),
)
def test_native_c4_equals_the_plain_one(texts: list[str], terminal: bool, least: int) -> None:
    if kernels.library("c4") is None:
        pytest.skip("no compiler")
    config = C4Config(
        terminal_punctuation=terminal,
        min_line_words=least,
        min_sentences=least,
        max_word_length=10,
        end_marks=".?!。",
    )
    column = pa.array(texts, pa.large_string())
    native, plain = c4.clean(column, config), c4.clean_plain(column, config)
    assert native.values == plain.values
    assert native.removed.tolist() == plain.removed.tolist()
    assert native.texts.to_pylist() == plain.texts.to_pylist()


PROSE = (
    "The house stood on a hill above the river, and nobody had lived in it for years. "
    "Children said that they could hear music there at night. We have never believed them. "
    "One evening my brother went up with a lamp, and he came back with an old violin. "
    "He could not play it, but it pleased him to have it on the wall of his room."
)
CHINESE_PROSE = (
    "那座房子立在河边的小山上，已经很多年没有人住了。孩子们说，夜里能听见里面有音乐。"
    "我们从来不相信他们的话。有一天晚上，弟弟提着灯走上山去，回来时手里拿着一把旧提琴。"
    "他并不会拉琴，可是他喜欢把它挂在自己屋里的墙上。"
)
ALL = QualityConfig(
    english=("c4", "gopher_quality", "gopher_repetition", "fineweb"),
    chinese=("chinese", "chinese_repetition"),
    other=("gopher_repetition",),
)


def judge(text: str, config: QualityConfig = ALL, which: int = 0) -> tuple[str | None, str | None]:
    _, (reasons, values), _ = judge_texts(pa.array([text], pa.large_string()), np.array([which]), config)
    return reasons[0], values[0]


def test_good_prose_passes_all_rules() -> None:
    assert judge(PROSE) == (None, None)
    assert judge(CHINESE_PROSE, which=1) == (None, None)
    assert judge(CHINESE_PROSE.replace("，", "，\n"), which=1) == (None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The cat and the dog.", "words 5"),
        ("a b of to " * 20, "mean_word 1.5"),
        ("the internationalisation of transubstantiation " * 15, "mean_word 10.75"),
        (PROSE + " #tag" * 20, "hashes 0.1869"),
        ("and ... that " * 40, "ellipses 0.3333"),
        ("\n".join("- " + line for line in PROSE.split(". ")), "bullet_lines 1"),
        ("\n".join(line + "..." for line in PROSE.split(". ")), "ellipsis_lines 1"),
        ("there 1234 of 3456 that 5678 and 7890 " * 10, "alphabetic_words 0.5"),
        ("words without small helpers " * 15, "stop_words 0"),
    ],
)
def test_gopher_quality_names_rule_and_figure(text: str, value: str) -> None:
    loose = QualityConfig(english=("gopher_quality",))
    reason, found = judge(text, loose)
    assert reason == "gopher_quality" and found is not None
    assert found.split()[0] == value.split()[0]
    assert float(found.split()[1]) == pytest.approx(float(value.split()[1]), abs=0.06)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("one two\n\none two\n\none two\n\nthree four", "paragraphs"),
        ("a line\na line\na line\nanother one here", "lines"),
        ("a\nb\nc\nd\n" + "a long line that comes again\n" * 2, "line_characters"),
        ("go home now or else go home later, go home, we go home", "top_2_gram"),
        ("the end of it. x the end of it. y the end of it. z", "top_2_gram"),
        ("".join(f"a{n} " for n in range(10, 40)) * 2 + PROSE[:60], "duplicate_5_grams"),
        (CHINESE_PROSE + CHINESE_PROSE[:40] * 2, "duplicate_5_grams"),
    ],
)
def test_gopher_repetition_names_the_rule(text: str, rule: str) -> None:
    reason, value = judge(text, QualityConfig(english=("gopher_repetition",)))
    assert reason == "gopher_repetition" and value is not None and value.split()[0] == rule


def test_repetition_figures_worked_out_by_hand() -> None:
    stats = text_stats(pa.array(["ab c ab c ab d", "春天春天来"]))
    # "ab c" twice, 4 characters with its space; of two Han characters no space is counted.
    assert stats["top_2"].tolist() == [8, 4]
    assert stats["top_3"].tolist() == [2 * 7, 3]
    assert stats["words"].tolist() == [6, 5] and stats["chars"].tolist() == [14, 5]


def test_c4_removes_lines_and_counts_them() -> None:
    page = (
        "Home | About\n"
        + PROSE.replace(". ", ".[1]\n")
        + "\nPlease enable JavaScript to go on.\nWe use cookies to serve you.\nToo short.\n"
    )
    texts, (reasons, _), removed = judge_texts(
        pa.array([page], pa.large_string()), np.array([0]), QualityConfig(english=("c4",))
    )
    assert texts.to_pylist() == [PROSE.replace(". ", ".\n")] and reasons[0] is None
    assert dict(zip(c4.REMOVED, removed[0].tolist(), strict=True)) == {
        "long_word": 0, "no_terminal": 1, "few_words": 1, "javascript": 1, "policy": 1,
    }  # fmt: skip
    assert judge(PROSE + " Lorem ipsum dolor.") == ("c4", "lorem_ipsum")
    assert judge(PROSE + " if (x) { y. }") == ("c4", "sentences 0")
    assert judge(PROSE + "\nif it is { then so.") == ("c4", "curly_bracket")
    texts, _, _ = judge_texts(pa.array(["One sentence only. {"], pa.large_string()), np.array([0]), ALL)
    assert texts.to_pylist() == ["One sentence only. {"], "a dropped text stays whole"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("\n".join(PROSE.rstrip(".").split(", ")), "ended_lines"),
        ("\n".join(f"Line {n} ends." for n in range(20)), "short_lines"),
        ((PROSE + "\n") * 2, "duplicate_characters"),
        ("\n".join(f"Dishwashers-{n:020d} serve." for n in range(20)), "lines_per_word"),
    ],
)
def test_fineweb_names_the_rule(text: str, rule: str) -> None:
    reason, value = judge(text, QualityConfig(english=("fineweb",)))
    assert reason == "fineweb" and value is not None and value.split()[0] == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("太短了。", "han"),
        (CHINESE_PROSE + PROSE * 4, "han_share"),
        (CHINESE_PROSE + "锟斤拷" * 3, "damage"),
        (CHINESE_PROSE + "，。、；" * 40, "punctuation"),
        (CHINESE_PROSE + "哈" * 60, "runs"),
        ("手机壳 数据线 充电器 耳机 音箱 键盘 鼠标 显示器 路由器 硬盘 内存 主板 机箱 电源 " * 2, "keywords"),
        ("我们在一起说话" * 20, "punctuation"),
        ("好的。" * 30, "sentence"),
        (CHINESE_PROSE.replace("。", "，") * 5 + "的", "sentence"),
        (CHINESE_PROSE + "上一篇 下一篇 返回首页 加入收藏 友情链接", "template"),
    ],
)  # fmt: skip
def test_chinese_rules_name_the_rule(text: str, rule: str) -> None:
    reason, value = judge(text, QualityConfig(chinese=("chinese",)), which=1)
    assert reason == "chinese" and value is not None and value.split()[0] == rule


def test_the_step_chooses_by_language_and_leaves_code_and_dropped_documents_alone() -> None:
    bad = "x\n" * 30
    rows = [
        ("text", "en", PROSE, None), ("text", "en", bad, None), ("text", "zh", CHINESE_PROSE, None),
        ("text", "zh", "太短了。", None), ("text", "fr", bad, None), ("code", "python", bad, None),
        ("text", "en", bad, "too_short"), ("text", None, None, "binary"),
    ]  # fmt: skip
    names = ("kind", "language", "text", "reason")
    table = {name: pa.array([row[i] for row in rows], pa.large_string()) for i, name in enumerate(names)}
    table["value"] = pa.array([None] * 6 + ["5", "zero byte"], pa.large_string())
    out = judge_quality(daft.from_arrow(pa.table(table)), ALL).to_arrow().to_pylist()
    assert [row["reason"] for row in out] == [
        None, "c4", None, "chinese", "gopher_repetition", None, "too_short", "binary",
    ]  # fmt: skip
    assert [row["value"] for row in out] == [
        None, "sentences 0", None, "han 3", "lines 0.9355", None, "5", "zero byte",
    ]  # fmt: skip
    assert [row["text"] for row in out] == [row[2] for row in rows]
    assert out[1]["c4_lines"]["no_terminal"] == 30 and out[7]["c4_lines"]["no_terminal"] == 0
    assert judge_quality(daft.from_arrow(pa.table(table)), QualityConfig()).column_names == [*names, "value"]


def test_wrong_tables_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match="counts words between spaces"):
        QualityConfig(chinese=("c4",))
    with pytest.raises(ConfigError, match="3 limits in top"):
        RepetitionConfig(top=(0.1,))
    with pytest.raises(ConfigError, match="at most 64"):
        GopherConfig(stop_words=("x",) * 65)

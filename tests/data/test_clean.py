"""Repairs of text: wrong encodings, invisible characters, forms of the same character."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.config_quality import CleanConfig
from weft.data.engine import daft
from weft.data.steps.clean import clean, clean_texts, repair_gbk

ZH = "今天天气很好，我们在公园里散步。语言模型是一个字一个字地写的。"


def cleaned(text: str, code: bool = False, **options: object) -> str:
    config = CleanConfig(**options)  # type: ignore[arg-type]
    out: str = clean_texts(pa.array([text], pa.large_string()), pa.array([code]), config)[0].as_py()
    return out


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Café “déjà vu” — naïve", "windows-1252"),
        ("schön und größer", "latin-1"),
        ("你好，世界", "latin-1"),
        ("它很好。\n我们在这里", "latin-1"),
    ],
)
def test_mojibake_of_latin_encodings_is_undone(text: str, encoding: str) -> None:
    broken = text.encode().decode(encoding, "replace") if encoding == "latin-1" else None
    broken = broken or text.encode().decode("cp1252", "replace")
    if "\ufffd" not in broken:
        assert cleaned(broken) == text
    assert cleaned(broken, mojibake=False) == broken
    assert cleaned(broken, code=True) == broken


def test_utf8_read_as_gbk_is_undone_line_by_line() -> None:
    lines = ["我们在公园里散步了。", "它也是文字的模型，"]
    broken = [line.encode().decode("gb18030", "replace") for line in lines]
    fine = "锛字不常用，却是好字。"
    # The last character was lost when the text was read.
    expected = [lines[0][:-1] + "\ufffd", lines[1][:-1] + "\ufffd", fine, "Yokohama (横浜) is a city."]
    assert cleaned("\n".join([*broken, *expected[2:]])) == "\n".join(expected)
    assert repair_gbk("涓€") == "一"


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="的一是在我们了，。横浜a é\nü…”", max_size=30))
def test_sound_text_stays_as_it_is(text: str) -> None:
    assert cleaned(text) == text


def test_invisible_characters_go_but_emoji_and_scripts_keep_their_joiners() -> None:
    assert cleaned("a\u200bb\u00adc\u2060d\u202ee") == "abcde"
    assert cleaned("模\u200c型\u200d。x\u200dy") == "模型。xy"
    family, hindi, persian = "👩\u200d👩\u200d👧", "क\u094d\u200dष", "می\u200cخواهم"
    assert cleaned(f"{family} {hindi} {persian} \u200b") == f"{family} {hindi} {persian} "
    assert cleaned("a\u200bb", zero_width=False) == "a\u200bb"


def test_full_width_and_traditional_are_choices() -> None:
    text = "ＡＢＣ１２３，語言模型！"
    assert cleaned(text) == text
    assert cleaned(text, half_width="alphanumeric") == "ABC123，語言模型！"
    assert cleaned(text + "\u3000x", half_width="all") == "ABC123,語言模型! x"
    assert cleaned(text, simplified=True) == "ＡＢＣ１２３，语言模型！"
    assert cleaned(ZH, simplified=True) == ZH


def test_the_step_changes_text_only() -> None:
    table = pa.table({"text": ["a\u200bb", "a\u200bb", None, ZH], "kind": ["text", "code", "text", "text"]})
    out = clean(daft.from_arrow(table), CleanConfig()).to_arrow()
    assert out["text"].to_pylist() == ["ab", "a\u200bb", None, ZH]

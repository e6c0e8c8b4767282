"""Files and their bytes: finding, encodings, JSON records, normalising, and the figures of the junk rules."""

import codecs
import gc
import os
import random
import unicodedata
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from weft.core.errors import DataError
from weft.data import records, sources
from weft.data.characters import PLANES
from weft.data.config import ReadConfig
from weft.data.encoding import decode, detect
from weft.data.kernels import address
from weft.data.measure import measure, measure_plain
from weft.data.steps.normalise import normalise_texts, unstable
from weft.data.traits import FOLLOWER, FREE, LEAD, table, traits, traits_plain

ZH = "自然语言处理是人工智能的重要方向，研究如何让计算机理解和生成人类的语言。"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"plain", "plain"),
        (b"", ""),
        (codecs.BOM_UTF8 + ZH.encode(), ZH),
        (codecs.BOM_UTF16_LE + ZH.encode("utf-16-le"), ZH),
        (codecs.BOM_UTF16_BE + ZH.encode("utf-16-be"), ZH),
        (codecs.BOM_UTF32_LE + "ab".encode("utf-32-le"), "ab"),
        ("hello wide world".encode("utf-16-le"), "hello wide world"),
        ("hello wide world".encode("utf-16-be"), "hello wide world"),
        (ZH.encode("gb18030"), ZH),
        (("English, then " + ZH).encode("gbk"), "English, then " + ZH),
    ],
)
def test_encodings_are_recognised(content: bytes, text: str) -> None:
    assert decode(content) == (text, None, None)


TRADITIONAL = "自然語言處理是人工智慧的重要方向，研究如何讓電腦理解和產生人類的語言。"
GERMAN = (
    "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung aller Gewalt."
)
FRENCH = "Les hommes naissent et demeurent libres et égaux en droits, et ne cèdent pas à la force."


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TRADITIONAL, "big5"),
        (TRADITIONAL, "gb18030"),
        ("自然言語処理は、人間が日常的に使っている言葉をコンピュータに処理させる技術である。", "cp932"),
        ("自然言語処理は、人間が日常的に使っている言葉をコンピュータに処理させる技術である。", "euc_jp"),
        ("자연어 처리는 컴퓨터를 이용하여 사람의 언어를 분석하고 처리하는 인공지능의 한 분야이다.", "cp949"),
        (GERMAN, "latin-1"),
        (FRENCH, "cp1252"),
        (ZH, "gbk"),
    ],
)
def test_encodings_from_before_unicode_are_recognised(text: str, name: str) -> None:
    assert decode(text.encode(name)) == (text, None, None)
    found = detect((text * 3).encode(name)[:-1])
    assert found is not None and text.encode(name).decode(found) == text


def test_damaged_utf8_is_not_taken_for_another_encoding() -> None:
    for text in (ZH * 5, GERMAN * 5, FRENCH * 5):
        content = bytearray(text.encode())
        content[next(n for n, byte in enumerate(content) if byte > 0x7F)] = 0xFF
        assert decode(bytes(content))[1] == "invalid_encoding"
        assert detect(bytes(content)) == "utf-8"
    for text, name in (
        ("Привет, мир! Как у тебя дела сегодня утром?", "cp1251"),
        ("Ελληνικά και άλλα", "cp1253"),
    ):
        assert decode(text.encode(name) * 4)[1] == "invalid_encoding"
    assert detect(b"\x7fELF\0\0\0") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x10\x20", "binary"),
        (b"caf\xe9 au lait, na\xefve", "invalid_encoding"),
        (b"abc\xff\xfe\xfd", "invalid_encoding"),
        (codecs.BOM_UTF16_LE + b"a\x00b\x00\x00\xd8", "invalid_encoding"),
        (ZH.encode()[:-1], "invalid_encoding"),
    ],
)
def test_bytes_of_no_encoding_have_a_reason(content: bytes, reason: str) -> None:
    text, found, value = decode(content)
    assert text is None and found == reason and value


def test_invalid_bytes_can_be_replaced() -> None:
    assert decode(b"abc\xff", replace=True) == ("abc\ufffd", None, None)


def test_json_lines_in_pieces_give_every_line_once(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    lines = [b'{"text": "' + b"x" * (7 * i % 40) + b'"}' for i in range(60)]
    file.write_bytes(b"\n".join(lines))
    for step in (1, 7, 50, 10_000):
        got = [
            line.content.strip()
            for offset in range(0, file.stat().st_size, step)
            for line in records.read_lines(file, offset, step, 1000)
            if line.content is not None
        ]
        assert got == lines


def test_a_line_over_the_limit_is_passed_by(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"text": "a"}\n' + b"y" * 5000 + b'\n{"text": "b"}\n')
    for step in (100, 10_000):
        found = [
            line
            for offset in range(0, file.stat().st_size, step)
            for line in records.read_lines(file, offset, step, 64)
        ]
        assert [line.content is None for line in found] == [False, True, False]
        assert found[1].offset == 14 and 64 < found[1].size <= 65


def test_broken_records_are_reported_one_by_one() -> None:
    good, bad, none, wrong = (
        b'{"text": "\xe4\xbd\xa0", "n": 1}',
        b'{"text": ',
        b'{"other": 1}',
        b'{"text": 5}',
    )
    assert records.parse_lines([good, none], "text") == [("你", None, None), (None, "no_text", "text")]
    parsed = records.parse_lines([good, bad, none, wrong, b"[1]", b'{"text": "\\ud800"}'], "text")
    assert [reason for _, reason, _ in parsed] == [
        None, "bad_json", "no_text", "no_text", "no_text", "invalid_encoding",
    ]  # fmt: skip
    assert parsed[0][0] == "你"


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        ('[{"text": "a"}, {"text": "b"}]', [None, None]),
        ('{"text": "a"}', [None]),
        ("[]", ["no_text"]),
        ("{", ["bad_json"]),
        ("[" * 100_000, ["bad_json"]),
    ],
)
def test_json_documents(content: str, reasons: list[str | None]) -> None:
    assert [reason for _, reason, _ in records.parse_document(content, "text")] == reasons


def test_finding_skips_hidden_and_excluded_and_survives_links(tmp_path: Path) -> None:
    for name in (
        "a.txt",
        "sub/b.py",
        ".hidden/c.txt",
        ".d.txt",
        "__pycache__/e.py",
        "f.png",
        "g.docx",
        "README",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    found = {file.source: file.reason for file in sources.find([tmp_path], ReadConfig())}
    base = tmp_path.name
    assert found == {
        f"{base}/README": None,
        f"{base}/a.txt": None,
        f"{base}/sub/b.py": None,
        f"{base}/f.png": "binary",
        f"{base}/g.docx": "unsupported",
        f"{base}/gone.txt": "unreadable",
        f"{base}/pipe.txt": "unreadable",
    }


def test_globs_single_files_and_equal_folder_names(tmp_path: Path) -> None:
    for folder in ("one/data", "two/data"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.txt").write_text(folder)
    found = sources.find([tmp_path / "one/data", tmp_path / "two/data"], ReadConfig())
    assert [file.source for file in found] == ["data/x.txt", "data~2/x.txt"]
    found = sources.find([str(tmp_path / "*/data/*.txt")], ReadConfig())
    assert len({file.source for file in found}) == 2
    named = tmp_path / "notes.weird"
    named.write_text("x")
    assert sources.find([named], ReadConfig())[0].reason is None


def test_missing_and_empty_sources_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder .*nowhere"):
        sources.find([tmp_path / "nowhere"], ReadConfig())
    with pytest.raises(DataError, match="No files were found"):
        sources.find([tmp_path], ReadConfig())


def test_normalising_text_and_code() -> None:
    texts = pa.array(["e\u0301\r\nx\x07\ufeff\ry", "e\u0301\r\nx\x0c\ty", None, "👩‍👩‍👧"], pa.large_string())
    got = normalise_texts(texts, pa.array([False, True, False, False])).to_pylist()
    assert got == ["é\nx\ny", "e\u0301\nx\x0c\ty", None, "👩‍👩‍👧"]


def test_measures_of_each_document_are_its_own() -> None:
    texts = ["same\nsame\nother", "", ZH, "abc 123", "!!! ???", "Привет", "x" * 50 + "\n" + "y" * 9, "\n\n"]
    got = measure(pa.array(texts, pa.large_string()))
    assert got.script.tolist() == ["latin", "none", "han", "latin", "none", "cyrillic", "latin", "none"]
    assert got.longest_line.tolist() == [5, 0, len(ZH), 7, 7, 6, 50, 0]
    assert got.repeated[0] == pytest.approx(4 / 13) and got.repeated[6] == 0
    assert got.alphanumeric[3] == 1 and got.alphanumeric[4] == 0 and got.alphanumeric[2] > 0.9
    assert got.mean_line[6] == pytest.approx(29.5)
    for index, text in enumerate(texts):
        alone = measure(pa.array([text], pa.large_string()))
        assert alone.repeated[0] == got.repeated[index] and alone.script[0] == got.script[index]
    assert len(measure(pa.array([], pa.large_string())).script) == 0
    assert len(measure_plain(pa.array([], pa.large_string())).script) == 0


def random_texts(count: int, alphabet: str) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(alphabet, k=draw.randrange(60))) for _ in range(count)]


def test_measures_equal_the_plain_ones() -> None:
    texts = [*random_texts(500, "ab1 \n\t中文あ한Пא\u3000é😀\x0b-"), "", "\n", "a\na\na", "\n\n\n"]
    array = pa.array(["dropped", *texts], pa.large_string()).slice(1)
    got, expected = measure(array), measure_plain(array)
    assert got.script.tolist() == expected.script.tolist()
    for name in ("alphanumeric", "longest_line", "mean_line", "repeated"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-12, err_msg=name)


def test_traits_equal_the_plain_ones() -> None:
    kinds = table({LEAD: b"a", FOLLOWER: [0x62, 0x1F600], FREE: [0x4E2D], FREE << 1: [0x63, 0x61]})
    texts = pa.array(
        ["x", None, "", "ab", "ba", "a😀", "a b", *random_texts(300, "abc中😀 é")], pa.large_string()
    )
    got = traits(texts, kinds)
    assert got.tolist() == traits_plain(texts, kinds).tolist()
    assert got[:7].tolist() == [0, 0, 0, 1 | 2 | 4 | 16, 1 | 2 | 16, 1 | 2 | 4 | 16, 1 | 2 | 16]


def test_a_pointer_keeps_its_array() -> None:
    """A table that two threads made at once belongs to nobody but the call that reads it."""
    array = np.arange(8)
    alive = weakref.ref(array)
    pointer = address(array)
    del array
    gc.collect()
    assert alive() is not None
    del pointer
    gc.collect()
    assert alive() is None


def test_text_without_unstable_characters_is_composed() -> None:
    """What is not looked at because the quick check says so needs no composing, for any two neighbours."""
    every = set(unstable())
    stable = [chr(code) for code in range(0x20, PLANES) if code not in every and not 0xD800 <= code < 0xE000]
    draw = random.Random(1)
    for _ in range(200):
        assert unicodedata.is_normalized("NFC", "".join(draw.choices(stable, k=2_000)))
    decomposed = [unicodedata.normalize("NFD", character) for character in map(chr, range(0xA0, 0xD7A4))]
    changing = [text for text in decomposed if not unicodedata.is_normalized("NFC", text)]
    assert len(changing) > 11_000
    assert all(every.intersection(map(ord, text)) for text in changing)

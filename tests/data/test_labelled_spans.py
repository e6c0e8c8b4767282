"""Labelled spans: tags, CLUENER and roles as plain records, and that each broken line is reported."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.labelled_files import ROLES, good, made, reasons, surfaces

from weft.data.labelled import bio, read

__all__ = ["made"]

# bio


def test_chinese_characters_are_joined_and_spans_are_characters(made: Any) -> None:
    [first, second] = good("bio", made("李\tB-PER\n白\tI-PER\n在\tO\n长\tB-LOC\n安\tI-LOC\n\n\n好 O\n。 O"))
    assert first == {
        "text": "李白在长安",
        "spans": [{"start": 0, "end": 2, "label": "PER"}, {"start": 3, "end": 5, "label": "LOC"}],
    }
    assert second == {"text": "好。", "spans": []}


def test_english_words_are_joined_by_a_space(made: Any) -> None:
    [record] = good("bio", made("Mr O\nHo B-PER\nChi I-PER\n. O\n"))
    assert record == {"text": "Mr Ho Chi .", "spans": [{"start": 3, "end": 9, "label": "PER"}]}


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["北京", "大学", "，", "“", "好", "”"], "北京大学，“好”"),
        (["用", "Python", "3", "写", "的", "程序"], "用 Python 3 写的程序"),
        (["東京", "タワー"], "東京タワー"),
        (["a", "b"], "ab"),
        (["서울", "시"], "서울 시"),
        (["𠮷野", "家"], "𠮷野家"),
    ],
)
def test_where_tokens_get_a_space(tokens: list[str], text: str) -> None:
    joined, starts = bio.join(tokens)
    assert joined == text
    assert [joined[s : s + len(t)] for s, t in zip(starts, tokens, strict=True)] == tokens


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-A I-A O B-A", ["ab/A", "d/A"]),
        ("B_A M_A E_A S_B", ["abc/A", "d/B"]),
        ("B-A I-A E-A S-A", ["abc/A", "d/A"]),
        ("B-A L-A U-A U-A", ["ab/A", "c/A", "d/A"]),
        ("I-A I-A I-B O", ["ab/A", "c/B"]),
        ("I-A B-A I-A O", ["a/A", "bc/A"]),
        ("O E-A M-A M-A", ["b/A", "cd/A"]),
        ("B-A I-B I-B E-A", ["a/A", "bc/B", "d/A"]),
        ("B-PER.NAM I-PER.NAM B-x-y I-x-y", ["ab/PER.NAM", "cd/x-y"]),
        ("O O O O", []),
    ],
)
def test_tagging_schemes(made: Any, tags: str, spans: list[str]) -> None:
    content = "".join(f"{token}\t{tag}\n" for token, tag in zip("abcd", tags.split(), strict=True))
    [record] = good("bio", made(content))
    assert [f"{text}/{label}" for text, label in surfaces(record)] == spans


def test_options_of_bio(made: Any) -> None:
    [weibo] = good("bio", made("科0\tB-A\n技1\tI-A\n20\tO\nx\tO\n"), index_suffix=True)
    assert weibo["text"] == "科技2x"
    [kept] = good("bio", made("科0\tO\n2\tO\n"))
    assert kept["text"] == "科0 2"
    [wiki] = good(
        "bio", made("en:New\tB-LOC\nen:York\tI-LOC\nen::\tO\nzh-min-nan:x\tO\n"), language_prefix=True
    )
    assert (wiki["text"], surfaces(wiki)) == ("New York : x", [("New York", "LOC")])
    [few] = good("bio", made("Paris\tart-music\nhere\tO\nB\tB\n"), bare_labels=True)
    assert surfaces(few) == [("Paris", "art-music"), ("B", "B")]


def test_conll_2003_has_more_columns_and_markers(made: Any) -> None:
    content = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n-DOCSTART- -X- O O\nx NN O O\n"
    first, second = good("bio", made(content))
    assert (first["text"], surfaces(first), second["text"]) == ("EU rejects", [("EU", "ORG")], "x")


@pytest.mark.parametrize(
    ("content", "broken"),
    [
        (b"a O\nb\nc O\n\nd O\n", ("data.txt#1", "too_few_columns", "b")),
        (b"a\tO\nb\tQ-PER\n\nd O\n", ("data.txt#1", "bad_tag", "Q-PER")),
        (b"a O\nb B-\n\nd O\n", ("data.txt#1", "bad_tag", "B-")),
        (b"a O\nb B\n\nd O\n", ("data.txt#1", "bad_tag", "B")),
        (b"\tO\n\nd O\n", ("data.txt#0", "no_token", "\tO")),
        (b"a O\n\xe4\xb8 O\n\nd O\n", ("data.txt#1", "invalid_encoding", "byte 0")),
        (b"a O\nxy\xff O\n\nd O\n", ("data.txt#1", "invalid_encoding", "byte 2")),
    ],
)
def test_a_broken_sentence_is_reported_once_and_the_next_is_read(
    made: Any, content: bytes, broken: tuple[str, str, str]
) -> None:
    file = made(content)
    assert reasons("bio", file) == [broken]
    assert [record["text"] for _, record, _, _ in read("bio", file) if record] == ["d"]


def test_an_option_that_leaves_no_token_is_reported(made: Any) -> None:
    assert reasons("bio", made("0\tO\n"), index_suffix=True) == [("data.txt#0", "no_token", "0\tO")]
    assert reasons("bio", made("en:\tO\n"), language_prefix=True) == [("data.txt#0", "no_token", "en:\tO")]


_TOKENS = st.text(
    st.one_of(st.sampled_from("北京大学ab1,。“カ"), st.characters(exclude_categories=["C", "Z"])),
    min_size=1,
    max_size=4,
).filter(lambda token: token != "-DOCSTART-")
_CHUNKS = st.tuples(st.lists(_TOKENS, min_size=1, max_size=4), st.sampled_from(["", "PER", "地点", "A-b_c"]))


def _tags(size: int, label: str, scheme: str) -> list[str]:
    if not label:
        return ["O"] * size
    if scheme == "bio":
        return [f"B-{label}"] + [f"I-{label}"] * (size - 1)
    if size == 1:
        return [f"S_{label}"]
    return [f"B_{label}"] + [f"{'M' if scheme == 'bmes' else 'I'}_{label}"] * (size - 2) + [f"E_{label}"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(_CHUNKS, min_size=1, max_size=5), min_size=1, max_size=3),
    st.sampled_from(["bio", "bmes", "bioes"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["\t", " "]),
)
def test_what_is_written_as_bio_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    sentences: list[list[tuple[list[str], str]]],
    scheme: str,
    end: str,
    space: str,
) -> None:
    written = ""
    for sentence in sentences:
        for tokens, label in sentence:
            tags = _tags(len(tokens), label, scheme)
            written += "".join(f"{token}{space}{tag}{end}" for token, tag in zip(tokens, tags, strict=True))
        written += end
    file = tmp_path_factory.mktemp("bio") / "data.txt"
    file.write_bytes(written.encode("utf-8"))
    records = good("bio", file)
    for sentence, record in zip(sentences, records, strict=True):
        assert record["text"].replace(" ", "") == "".join("".join(tokens) for tokens, _ in sentence)
        assert [(surface.replace(" ", ""), label) for surface, label in surfaces(record)] == [
            ("".join(tokens), label) for tokens, label in sentence if label
        ]
        assert all(surface == surface.strip() for surface, _ in surfaces(record))


# cluener


def test_cluener_in_order_of_the_text(made: Any) -> None:
    label = {"name": {"叶老桂": [[9, 11], [0, 2]]}, "company": {"浙商": [[4, 5]]}}
    file = made(json.dumps({"text": "叶老桂在浙商银行，叶老桂", "label": label}, ensure_ascii=False) + "\n\n")
    [record] = good("cluener", file)
    assert surfaces(record) == [("叶老桂", "name"), ("浙商", "company"), ("叶老桂", "name")]
    assert record["spans"][1] == {"start": 4, "end": 6, "label": "company"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": 0, "text": "好"}', "no_labels"),
        ('{"text": "好", "label": {"a": {"好": [[0, 1]]}}}', "bad_span"),
        ('{"text": "好", "label": {"a": {"坏": [[0, 0]]}}}', "bad_span"),
        ('{"text": "好", "label": {"a": {"好": [[-1, -1]]}}}', "bad_span"),
        ('{"text": "好", "label": {"a": {"好": [["0", 0]]}}}', "bad_span"),
        ('{"text": "好", "label": {"a": {"好": [0, 0]}}}', "bad_span"),
        ('{"text": "好", "label": {"a": {"好": []}}}', "bad_span"),
        ('{"text": "好", "label": {"a": {"\\ud800": [[0, 0]]}}}', "bad_span"),
        ('{"text": "好", "label": {"a": [1]}}', "bad_span"),
        ('{"text": "好", "label": [1]}', "bad_span"),
        ('{"text": "\\ud800", "label": {}}', "invalid_encoding"),
        ('{"text": "好", "label": {"\\udc80": {}}}', "invalid_encoding"),
        ('{"label": {}}', "no_text"),
        ("[1]", "no_text"),
        ("{", "bad_json"),
        ("[" * 100_000, "bad_json"),
    ],
)
def test_broken_cluener(made: Any, line: str, reason: str) -> None:
    file = made(line + '\r\n{"text": "好", "label": {}}\n')
    assert [(where, why) for where, why, _ in reasons("cluener", file)] == [("data.txt#0", reason)]
    assert [record for _, record, _, _ in read("cluener", file) if record] == [{"text": "好", "spans": []}]


# roles


def test_a_record_for_each_predicate(made: Any) -> None:
    first, second = good("roles", made(ROLES))
    assert first["text"] == second["text"] == "Have a mechanic check it"
    assert first["predicate"] == {"start": 0, "end": 4}
    assert surfaces(first, "roles") == [("a mechanic check it", "ARG1")]
    assert second["predicate"] == {"start": 16, "end": 21}
    assert surfaces(second, "roles") == [("a mechanic", "ARG0"), ("it", "ARG1")]


def test_roles_by_spaces_in_chinese_with_a_predicate_in_two_parts(made: Any) -> None:
    rows = "1 他 他 PN - - (A0*)\n2 看 看 VV 看 看.01 (V*)\n3 书 书 NN - - (A1*)\n4 完 完 VV - - (C-V*)\n"
    [record] = good("roles", made(rows))
    assert surfaces(record, "roles") == [("他", "A0"), ("书", "A1"), ("完", "C-V")]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["1 a a X a a.1 (V*)", "2 b b X - - (A0*"], "bad_brackets"),
        (["1 a a X a a.1 (V*)", "2 b b X - - *)"], "bad_brackets"),
        (["1 a a X a a.1 (V*)", "2 b b X - - A0"], "bad_brackets"),
        (["1 a a X a a.1 (A0*)", "2 b b X - - *"], "no_predicate"),
        (["1 a a X a a.1 (V*)", "2 b b X - - (V*)"], "many_predicates"),
        (["1 a a X a a.1 (V*)", "2 b b X - -"], "too_few_columns"),
        (["1 a a X a a.1 (V*)", "2 b b X - - * *"], "too_many_columns"),
        (["1 a a X a a.1 (V*)", "2 b b X b b.1 *"], "predicate_columns"),
        (["1 a a X"], "too_few_columns"),
        (["1 a a X a a.1 (V*)", "2 \udcff b X - - *"], "invalid_encoding"),
    ],
)
def test_broken_roles(made: Any, rows: list[str], reason: str) -> None:
    content = ("\n".join(rows) + "\n\n" + ROLES).encode("utf-8", "surrogateescape")
    file = made(content)
    assert [why for _, why, _ in reasons("roles", file)] == [reason]
    assert sum(record is not None for _, record, _, _ in read("roles", file)) == 2

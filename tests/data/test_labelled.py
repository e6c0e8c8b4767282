"""Labelled data: questions, lines and tables as plain records, and what holds for every format."""

import bz2
import gzip
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.labelled_files import ROLES, good, made, question, reasons, squad

from weft.core.errors import DataError, UsageError
from weft.data.labelled import READERS, read

__all__ = ["made"]

# squad


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_questions_and_their_answers(made: Any, mark: str) -> None:
    file = made(mark + squad(question({"text": "长安", "answer_start": 3}), question(is_impossible=True)))
    first, second = good("squad", file)
    assert first == {
        "id": "q",
        "context": "李白在长安，在长安。",
        "question": "哪里？",
        "answers": [{"text": "长安", "start": 3}],
    }
    assert second["answers"] == []


@pytest.mark.parametrize(
    ("given", "start"), [(3, 3), (4, 3), (5, 3), (6, 7), (7, 7), (99, 7), (-5, 3), (None, 3), ("7", 3)]
)
def test_an_answer_is_looked_for_nearby(made: Any, given: Any, start: int) -> None:
    [record] = good("squad", made(squad(question({"text": "长安", "answer_start": given}))))
    assert record["answers"] == [{"text": "长安", "start": start}]


def test_a_question_without_an_id_is_called_by_its_place(made: Any) -> None:
    given = [{"question": "q", "answers": []}, {"id": 7, "question": "q", "answers": []}]
    assert [record["id"] for record in good("squad", made(squad(*given)))] == ["data.txt#0.0.0", "7"]


def test_an_answer_that_is_nowhere_does_not_take_the_others_with_it(made: Any) -> None:
    there, nowhere = {"text": "长安", "answer_start": 3}, {"text": "洛阳", "answer_start": 3}
    file = made(squad(question(there, nowhere), question(nowhere)))
    assert reasons("squad", file) == [
        ("data.txt#0.0.0.1", "answer_not_in_context", "洛阳"),
        ("data.txt#0.0.1.0", "answer_not_in_context", "洛阳"),
    ]
    [record] = [record for _, record, _, _ in read("squad", file) if record]
    assert record["answers"] == [{"text": "长安", "start": 3}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (squad("q"), "no_question"),
        (squad({"id": "q"}), "no_question"),
        (squad({"id": "q", "question": "q"}), "no_answers"),
        (squad(question("text")), "empty_answer"),
        (squad(question({"text": "", "answer_start": 0})), "empty_answer"),
        (squad(question(), context=None), "no_context"),
        ('{"data": [{"paragraphs": [{"context": "c"}]}]}', "no_questions"),
        ('{"data": [{}]}', "no_paragraphs"),
        ('{"data": ["x"]}', "no_paragraphs"),
        ('{"data": ["\\ud800"]}', "no_paragraphs"),
        (squad(question(), context="a\udcffb"), "invalid_encoding"),
    ],
)
def test_broken_questions(made: Any, content: str, reason: str) -> None:
    assert [why for _, why, _ in reasons("squad", made(content.encode("utf-8", "surrogateescape")))] == [
        reason
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "are not JSON"),
        ('{"data": [', "are not JSON"),
        ("[" * 100_000, "are not JSON"),
        ("[]", "form of SQuAD"),
        ('{"data": {}}', "form of SQuAD"),
    ],
)
def test_what_is_not_squad_is_one_sentence(made: Any, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(read("squad", made(content)))


# lines


def test_a_label_and_a_text(made: Any) -> None:
    file = made("1 a fine film .\r\n\n0\t很 差 。\rDESC:manner How did it ?\n")
    assert good("lines", file) == [
        {"label": "1", "text": "a fine film ."},
        {"label": "0", "text": "很 差 。"},
        {"label": "DESC:manner", "text": "How did it ?"},
    ]
    assert [record["label"] for record in good("lines", file, coarse=True)] == ["1", "0", "DESC"]


def test_latin_1_is_read_when_asked_for(made: Any) -> None:
    file = made(b"1 caf\xe9\n0 plain\n1\n")
    assert reasons("lines", file) == [
        ("data.txt#0", "invalid_encoding", "byte 5"),
        ("data.txt#2", "no_text", "1"),
    ]
    assert next(iter(read("lines", file, encoding="latin-1")))[1] == {"label": "1", "text": "café"}
    with pytest.raises(UsageError, match="no encoding named 'latin-x'"):
        list(read("lines", file, encoding="latin-x"))


def test_a_line_whose_label_is_only_a_colon(made: Any) -> None:
    assert reasons("lines", made(":x y\n"), coarse=True) == [("data.txt#0", "no_label", ":x y")]


# parallel


def test_pairs_of_lines(made: Any) -> None:
    files = [made("hello\r\n\nthree\na\rb\n", "en"), made(" 你好\n二\n \n四", "zh")]
    assert [record for _, record, _, _ in read("parallel", files) if record] == [
        {"source": "hello", "target": "你好"},
        {"source": "a\rb", "target": "四"},
    ]
    assert reasons("parallel", files) == [("en#1", "empty", "source"), ("en#2", "empty", "target")]


def test_a_side_that_is_not_text(made: Any) -> None:
    files = [made("a\nb\n", "en"), made(b"\xff\n \n", "zh")]
    assert reasons("parallel", files) == [
        ("en#0", "invalid_encoding", "target, byte 0"),
        ("en#1", "empty", "target"),
    ]
    assert reasons("parallel", [made("\n", "en"), made("\n", "zh")]) == [
        ("en#0", "empty", "source and target")
    ]


def test_files_of_different_length_give_no_pair_at_all(made: Any) -> None:
    with pytest.raises(DataError, match=r"en has 2 lines and .*zh has 3;"):
        next(iter(read("parallel", [made("a\nb\n", "en"), made("a\nb\nc\n", "zh")])))
    with pytest.raises(DataError, match="two files, source and target, not 1"):
        list(read("parallel", made("a\n")))


# csv and tsv


def test_csv_with_quotes(made: Any) -> None:
    content = '\ufefflabel, review\r\n1,"很好,""真的""\n下次再来"\n\n0,a "b" c\r\n"2",""\n'
    assert good("csv", made(content)) == [
        {"label": "1", "review": '很好,"真的"\n下次再来'},
        {"label": "0", "review": 'a "b" c'},
        {"label": "2", "review": ""},
    ]


def test_tsv_knows_no_quotes(made: Any) -> None:
    content = 'label\ttext_a\n1\t"很好\r\n\n0\t他说："差"\n'
    assert good("tsv", made(content)) == [
        {"label": "1", "text_a": '"很好'},
        {"label": "0", "text_a": '他说："差"'},
    ]


@pytest.mark.parametrize(("name", "mark"), [("csv", ","), ("tsv", "\t")])
def test_rows_that_do_not_fit_the_header(made: Any, name: str, mark: str) -> None:
    rows = [b"label,text", b"1", b"1,a,b", b"1,\xff", b",", b"1,good"]
    file = made(b"\n".join(rows).replace(b",", mark.encode()))
    assert [(where, why) for where, why, _ in reasons(name, file)] == [
        ("data.txt#1", "too_few_columns"),
        ("data.txt#2", "too_many_columns"),
        ("data.txt#3", "invalid_encoding"),
    ]
    kept = [record for _, record, _, _ in read(name, file) if record]
    assert kept == [{"label": "", "text": ""}, {"label": "1", "text": "good"}]


def test_a_quote_that_does_not_close_costs_one_line(made: Any) -> None:
    file = made('label,text\n0,a\n1,"open\n0,b\n1,"x" y\n1,"好"\n')
    assert [(where, why) for where, why, _ in reasons("csv", file)] == [
        ("data.txt#2", "bad_csv"),
        ("data.txt#4", "bad_csv"),
    ]
    assert [record["text"] for _, record, _, _ in read("csv", file) if record] == ["a", "b", "好"]


def test_an_open_quote_before_much_text(made: Any) -> None:
    file = made('label,text\n1,"open\n' + "0,some text here\n" * 20_000)
    found = list(read("csv", file))
    assert (len(found), [reason for _, _, reason, _ in found if reason]) == (20_001, ["bad_csv"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("csv", b"", "is empty"),
        ("tsv", b"\n\n", "is empty"),
        ("csv", b"a,b,a\n", "names 'a' twice"),
        ("tsv", b"a\t\xff\n", "is not UTF-8"),
        ("csv", b'a,"b\n', "does not name its columns"),
    ],
)
def test_a_table_without_a_header_is_one_sentence(made: Any, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(read(name, made(content)))


# all of them


def _packed(content: bytes) -> dict[str, bytes]:
    return {
        ".zst": pa.compress(content, "zstd", asbytes=True),
        ".gz": gzip.compress(content),
        ".bz2": bz2.compress(content),
    }


GOOD: dict[str, str] = {
    "bio": "李 B-PER\n白 I-PER\n",
    "cluener": '{"text": "李白", "label": {"name": {"李白": [[0, 1]]}}}\n',
    "roles": ROLES,
    "squad": squad(question({"text": "长安", "answer_start": 3})),
    "lines": "1 好 电影\n",
    "parallel": "你好\n",
    "csv": 'label,text\n1,"好"\n',
    "tsv": "label\ttext\n1\t好\n",
}


def _files(name: str, file: Path) -> Sequence[Path]:
    return [file, file] if name == "parallel" else [file]


@pytest.mark.parametrize("name", READERS)
def test_compressed_files_are_read_like_plain_ones(made: Any, name: str) -> None:
    plain = good(name, _files(name, made(GOOD[name])))
    assert plain
    for suffix, content in _packed(GOOD[name].encode("utf-8")).items():
        assert good(name, _files(name, made(content, "data.txt" + suffix))) == plain


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("suffix", [".zst", ".gz", ".bz2"])
def test_what_cannot_be_read_at_all_is_one_sentence(
    made: Any, tmp_path: Path, name: str, suffix: str
) -> None:
    packed = _packed((GOOD[name] * 50).encode("utf-8"))[suffix]
    for content in (packed[:-9], b"no archive at all"):
        with pytest.raises(DataError, match=r"data\.txt\S+ cannot be read: [^\n]+\.$"):
            list(read(name, _files(name, made(content, f"data.txt{suffix}"))))
    with pytest.raises(DataError, match="There is no file"):
        list(read(name, _files(name, tmp_path / "absent")))
    with pytest.raises(DataError, match="is a folder"):
        list(read(name, _files(name, tmp_path)))
    with pytest.raises(DataError, match="There are no files"):
        list(read(name, []))


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None)
@given(
    content=st.one_of(st.binary(max_size=80), st.text('ab好 \t\n\r",*()-BIO:{}[]0\x85\u2028', max_size=60))
)
def test_whatever_the_bytes_nothing_but_one_sentence_comes(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes | str
) -> None:
    file = tmp_path_factory.mktemp("any") / "data.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    try:
        found = list(read(name, _files(name, file)))
    except DataError:
        return
    json.dumps(found, ensure_ascii=False).encode("utf-8")
    assert all((record is None) == (reason is not None) for _, record, reason, _ in found)
    assert max(Counter(where for where, *_ in found).values(), default=1) == 1


def test_an_unknown_name_suggests_the_nearest(made: Any) -> None:
    with pytest.raises(UsageError, match="did you mean 'squad'"):
        read("squat", made(""))
    with pytest.raises(UsageError, match="did you mean 'index_suffix'"):
        read("bio", made(""), index_sufix=True)
    with pytest.raises(UsageError, match="The format squad has no options, so coarse"):
        read("squad", made(""), coarse=True)


def test_options_may_be_words(made: Any) -> None:
    file = made("A:b c\n")
    labels = [
        good("lines", file, coarse=value)[0]["label"] for value in ("true", "", "False", "false", True, False)
    ]
    assert labels == ["A", "A", "A:b", "A:b", "A", "A:b"]
    with pytest.raises(UsageError, match="coarse is true or false, not 'maybe'"):
        read("lines", file, coarse="maybe")
    with pytest.raises(UsageError, match="encoding is a word, not 1"):
        read("lines", file, encoding=1)


# The sets themselves, where they are at hand.

SETS: list[tuple[str, tuple[str, ...], dict[str, Any], int, dict[str, int]]] = [
    ("bio", ("ner/msra/test.bio.txt.zst",), {}, 3442, {}),
    ("bio", ("ner/weibo/weibo.train.conll.zst",), {"index_suffix": True}, 1350, {}),
    ("bio", ("ner/wikiann_en/dev.zst",), {"language_prefix": True}, 10_000, {}),
    ("cluener", ("ner/cluener2020/train.jsonl.zst",), {}, 10_748, {}),
    ("cluener", ("ner/cluener2020/test.jsonl",), {}, 0, {"no_labels": 1345}),
    ("roles", ("srl/ewt_propbank/dev.srl.txt.zst",), {}, 4963, {}),
    ("squad", ("qa/cmrc2018/cmrc2018_dev.json.zst",), {}, 3219, {"answer_not_in_context": 193}),
    ("squad", ("qa/squad_v1.1_dev/dev-v1.1.json.zst",), {}, 10_570, {}),
    ("squad", ("qa/drcd/DRCD_dev.json.zst",), {}, 3524, {}),
    ("lines", ("sentiment/sst_mr_subj_trec/stsa.binary.train.zst",), {}, 6920, {}),
    ("lines", ("sentiment/sst_mr_subj_trec/rt-polarity.all.zst",), {}, 10_460, {"invalid_encoding": 202}),
    ("lines", ("sentiment/sst_mr_subj_trec/rt-polarity.all.zst",), {"encoding": "latin-1"}, 10_662, {}),
    ("csv", ("sentiment/zh_reviews/ChnSentiCorp_htl_all.csv.zst",), {}, 7766, {}),
    ("tsv", ("sentiment/chnsenticorp/train.tsv.zst",), {}, 9600, {}),
    ("parallel", ("translation/multi30k_en_de/val.en", "translation/multi30k_en_de/val.de"), {}, 1014, {}),
]


@pytest.mark.parametrize(("name", "files", "options", "records", "broken"), SETS)
def test_the_sets_themselves(
    name: str, files: tuple[str, ...], options: dict[str, Any], records: int, broken: dict[str, int]
) -> None:
    folder = Path(os.environ.get("WEFT_DATA", ""))
    paths = [folder / file for file in files]
    if "WEFT_DATA" not in os.environ or not all(path.exists() for path in paths):
        pytest.skip("the environment variable WEFT_DATA names no folder with this set")
    found = list(read(name, paths, **options))
    assert sum(record is not None for _, record, _, _ in found) == records
    assert Counter(reason for _, _, reason, _ in found if reason) == broken
    assert len({where for where, *_ in found}) == len(found)

"""What tasks encode and decode, apart from any model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.errors import CheckpointError, DataError, UsageError
from weft.data.batch import IGNORED
from weft.data.excluded import Excluded
from weft.data.forms import Chat, Classify, Pairs, Span, Tag
from weft.data.forms.offsets import Placed
from weft.data.forms.span import END, START, ask
from weft.data.forms.tag import place, spans_of
from weft.tasks import Card, Scored, classify, extract, read_card, tag, write, write_card
from weft.tokenizer import Tokenizer, train

TEXTS = [
    "小明在北京的《红楼梦》、《西游记》里工作。",
    "Ann works at Weft Labs, in New York.",
    "价格是 128 元。",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(TEXTS * 20, 512, encoder=True)


def test_an_encoders_tokenizer_keeps_han_and_marks_apart(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        ((ids, offsets),) = tokenizer.encode_offsets([text])
        assert tokenizer.decode(ids) == text
        pieces = [text[a:b] for a, b in offsets]
        assert all(len(piece) == 1 or not any("一" <= c <= "鿿" for c in piece) for piece in pieces)
    assert tokenizer.token_id("<mask>") is not None


def spanned(text: str, *names: str) -> dict[str, object]:
    spans = [{"start": text.index(n), "end": text.index(n) + len(n), "label": f"L{len(n)}"} for n in names]
    return {"text": text, "spans": spans}


@pytest.mark.parametrize(
    ("text", "names"),
    [(TEXTS[0], ("小明", "北京", "《红楼梦》", "《西游记》")), (TEXTS[1], ("Ann", "Weft Labs", "New York"))],
)
def test_spans_survive_the_way_to_classes_and_back(
    text: str, names: tuple[str, ...], tokenizer: Tokenizer
) -> None:
    form = Tag()
    example, reason, _ = form.example(spanned(text, *names))
    assert reason is None
    form = form.with_labels(sorted(set(form.classes(example))))
    (documents,) = form.encode(tokenizer, [example])
    assert not isinstance(documents, DataError)
    (one,) = tag.encode(tokenizer, [(text, None)])
    assert one.ids == documents[0].ids
    found = spans_of([form.labels[n] for n in documents[0].labels], one.offsets)
    assert [text[a:b] for a, b, _ in found] == list(names)


def test_a_predicate_stands_between_markers_that_no_text_spells(tokenizer: Tokenizer) -> None:
    start = TEXTS[1].index("works")
    (plain,), (marked,) = (tag.encode(tokenizer, [(TEXTS[1], p)]) for p in (None, (start, start + 5)))
    added = [n for n, token in enumerate(marked.ids) if token not in plain.ids]
    assert len(added) == 2 and len(marked.ids) == len(plain.ids) + 2
    assert tokenizer.decode(marked.ids[added[0] + 1 : added[1]]).strip() == "works"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "a b", "spans": [{"start": 0, "end": 9, "label": "x"}]}, "span_outside_text"),
        ({"text": "a b", "spans": [{"start": 2, "end": 2, "label": "x"}]}, "span_outside_text"),
        ({"text": "abcd", "spans": [{"start": 0, "end": 3, "label": "x"},
                                    {"start": 2, "end": 4, "label": "y"}]}, "overlapping_spans"),
        ({"text": "ab", "spans": [{"start": "0", "end": 1, "label": "x"}]}, "bad_span"),
        ({"text": " ", "spans": []}, "empty"),
        ({"text": "ab"}, "no_spans"),
    ],
)  # fmt: skip
def test_bad_spans_are_dropped_with_a_reason(record: dict[str, object], reason: str) -> None:
    assert Tag().example(record)[1] == reason


def test_labels_of_texts_may_be_numbers_and_bad_ones_have_a_reason() -> None:
    assert Classify().example({"text": "好", "label": 1}) == (["好", "1"], None, None)
    assert Classify().example({"text": "好"})[1] == "no_label"
    assert Classify().example({"text": " ", "label": "x"})[1] == "empty"
    assert Classify().example({"text": "\ud800", "label": "x"})[1] == "invalid_encoding"
    with pytest.raises(DataError, match="two languages"):
        Pairs(("a", "b"), ("zh",))


@given(st.integers(1, 60), st.integers(12, 40))
def test_windows_cover_a_context_and_only_one_with_the_answer_has_it(words: int, window: int) -> None:
    tokenizer = _shared()
    context = " ".join(["Ann", *["works"] * words, "York"])
    question = "who"
    (windows,) = ask(tokenizer, [(question, context)], window)
    assert all(len(one.ids) <= window for one in windows)
    covered = {place for one in windows for a, b in one.offsets for place in range(a, b)}
    assert covered >= {n for n, c in enumerate(context) if c != " "}
    record = {
        "question": question,
        "context": context,
        "answers": [{"text": "York", "start": len(context) - 4}],
    }
    example, _, _ = Span(window).example(record)
    (made,) = Span(window).encode(tokenizer, [example])
    assert not isinstance(made, DataError)
    for one, document in zip(windows, made, strict=True):
        has = [n for n, label in enumerate(document.labels) if label != IGNORED and label & START]
        ends = [n for n, label in enumerate(document.labels) if label != IGNORED and label & END]
        text = context[one.offsets[has[0]][0] : one.offsets[ends[0]][1]]
        assert len(has) == len(ends) == 1 and text in ("York", "")


_SHARED: list[Tokenizer] = []


def _shared() -> Tokenizer:
    if not _SHARED:
        _SHARED.append(train(TEXTS * 20, 512, encoder=True))
    return _SHARED[0]


def test_an_answer_is_the_best_span_and_silence_beats_a_weak_one() -> None:
    one = Placed([9, 1, 2, 3], [(0, 0), (0, 2), (2, 4), (4, 6)])
    scores = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 0.0], [0.0, 5.0]])
    found = extract.decode("abcdef", [one], [scores])
    assert (found.text, found.start, found.end, found.label) == ("abcdef", 0, 6, "answer")
    assert found.score == pytest.approx((np.exp(5) / (np.exp(5) + 3)) ** 2)
    backwards = scores[[0, 3, 2, 1]]
    assert extract.decode("abcdef", [one], [backwards]).score < found.score
    silent = np.array([[6.0, 6.0], [5.0, 0.0], [0.0, 0.0], [0.0, 5.0]])
    assert extract.decode("abcdef", [one], [silent]).label == "not found"
    assert extract.decode("abcdef", [one], [scores], least=0.99).label == "not found"


def test_only_legal_classes_follow_each_other() -> None:
    labels = ["O", "B-x", "I-x", "B-y", "I-y"]
    transitions, first, _ = tag.legal(labels)
    assert np.isneginf(first).tolist() == [False, False, True, False, True]
    assert np.isneginf(transitions[:, 2]).tolist() == [True, False, False, True, True]


def test_a_label_is_a_text_with_its_probability() -> None:
    (found,) = classify.decode(np.array([[0.0, np.log(3.0)]]), ["负面", "正面"], 1.0)
    assert found == "正面" and found.score == pytest.approx(0.75)
    assert found.table() == {"label": "正面", "score": found.score, "scores": found.scores}
    (cooler,) = classify.decode(np.array([[0.0, np.log(3.0)]]), ["负面", "正面"], 2.0)
    assert 0.5 < cooler.score < found.score


def test_a_glossary_chooses_among_alternatives_or_takes_confidence_away() -> None:
    answer = Scored("核心", 0.9, alternatives=(Scored("内核", 0.5), Scored("果仁", 0.1)))
    assert write.with_terms(answer, "the kernel", {"kernel": "内核"}) == "内核"
    missing = write.with_terms(answer, "the kernel", {"kernel": "谷粒"})
    assert missing == "核心" and not missing.confident
    assert write.with_terms(answer, "a nut", {"kernel": "谷粒"}) is answer


def test_a_card_is_read_as_written_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    card = Card("translation", "pairs", ("en", "zh"), both_ways=True, usual=0.5)
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card and "bayes" not in (tmp_path / "task.json").read_text()
    voted = Card("sentiment", "classify", bayes=2.5)
    write_card(tmp_path, voted)
    assert read_card(tmp_path) == voted
    for wrong in ("{", '{"form": "poems"}', '{"form": "tag", "task": "summary"}',
                  json.dumps({"form": "tag", "task": "entities", "window": "x"}),
                  json.dumps({"form": "tag", "task": "entities", "bayes": 1.0}),
                  *(json.dumps({"form": "classify", "task": "sentiment", name: value})
                    for name in ("bayes", "temperature") for value in (float("nan"), float("inf"), -1)),
                  json.dumps({"form": "classify", "task": "sentiment", "temperature": 0})):  # fmt: skip
        (tmp_path / "task.json").write_text(wrong, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"task\.json"):
            read_card(tmp_path)
    with pytest.raises(CheckpointError, match="says what the model answers"):
        read_card(tmp_path / "nowhere")


def test_languages_that_a_model_cannot_write_are_refused() -> None:
    both = Card("translation", "pairs", ("en", "zh"), both_ways=True)
    assert write.sources(both, ["hi"], "zh") == ["zh: hi"]
    one = Card("translation", "pairs", ("en", "zh"))
    assert write.sources(one, ["hi"], None) == ["zh: hi"]
    with pytest.raises(UsageError, match="writes zh, not en"):
        write.sources(one, ["hi"], "en")
    with pytest.raises(UsageError, match="without languages"):
        write.sources(Card("summary", "pairs"), ["hi"], "en")


def test_texts_of_other_files_are_recognised_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("label\ttext\n1\t这家酒店的  服务真的很好\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("a plain line of text\nshort\n", encoding="utf-8")
    held = Excluded([tmp_path / "a.tsv", tmp_path / "b.txt"])
    assert held.holds(["这家酒店的 服务真的很好"]) and held.holds(["x", "a plain  line of text"])
    assert held.holds(["A plain line -- of TEXT!"])
    assert not held.holds(["short"]) and not held.holds(["这家酒店的服务"])
    text = "1 a stirring , funny film\n正面\t这部电影真的很好看\n"
    (tmp_path / "c.train").write_text(text, encoding="utf-8")
    labelled = Excluded([tmp_path / "c.train"])
    assert labelled.holds(["A stirring, funny film"]) and labelled.holds(["这部电影真的很好看。"])


def test_an_instruction_is_recognised_with_its_input(tmp_path: Path) -> None:
    line = '{"instruction": "Sort these words", "input": "pear apple", "output": "apple pear"}\n'
    (tmp_path / "a.jsonl").write_text(line, encoding="utf-8")
    message = (Chat().example(json.loads(line))[0] or [])[0]["content"]
    assert Excluded([tmp_path / "a.jsonl"], Chat()).holds([message])
    assert not Excluded([tmp_path / "a.jsonl"]).holds([message])


def test_a_character_of_several_tokens_is_in_one_span() -> None:
    offsets = [(0, 1), (0, 1), (0, 1), (1, 2), (2, 3)]
    assert spans_of(["B-X", "B-X", "I-X", "I-X", "B-X"], offsets) == [(0, 2, "X"), (2, 3, "X")]
    assert spans_of(["B-X", "O", "B-Y", "B-Y", "O"], offsets) == [(0, 1, "X"), (1, 2, "Y")]


def test_a_span_around_the_predicate_is_one_run_of_labels(tiny_tokenizer: Tokenizer) -> None:
    form = Tag(("O", "B-A", "I-A"))
    whole = {"text": "Anna saw Peter", "predicate": {"start": 5, "end": 8}}
    example, reason, _ = form.example(whole | {"roles": [{"start": 0, "end": 14, "label": "A"}]})
    assert reason is None
    (made,) = form.encode(tiny_tokenizer, [example])[0]
    labelled = [label for label in made.labels if label]
    assert labelled == [1, *([2] * (len(labelled) - 1))] and form.marked
    (one,) = place(tiny_tokenizer, [("Anna saw Peter", (5, 8))])
    named = [form.labels[label] for label in made.labels]
    assert spans_of(named, one.offsets) == [(0, 14, "A")]


@pytest.mark.parametrize("predicate", ["saw", {"start": 4, "end": 5}, {"start": 5}, {"start": 5, "end": 99}])
def test_a_predicate_that_is_none_has_a_reason(predicate: Any) -> None:
    record = {"text": "Anna  saw Peter", "predicate": predicate, "roles": []}
    example, reason, _ = Tag().example(record)
    assert example is None and reason in ("bad_span", "span_outside_text")

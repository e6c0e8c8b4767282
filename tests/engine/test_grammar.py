"""Answers that must fit a grammar do; grammars that would hurt are refused; speculation changes nothing."""

from __future__ import annotations

import json
import re
import time

import pytest

from weft.core.errors import UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.grammar import Grammars
from weft.engine.params import Grammar
from weft.engine.speculative import Speculator

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["红", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(tiny_decoder, tiny_tokenizer):
    return LLM(tiny_decoder(max_position_embeddings=512), tiny_tokenizer)


def texts(engine, grammar, count=6, **settings):
    params = [
        SamplingParams(grammar=grammar, seed=seed, **{"max_tokens": 300, **settings}) for seed in range(count)
    ]
    answers = engine.generate([[1, 2, 3]] * count, params)
    assert {answer.finish_reason for answer in answers} == {"stop"}
    return [answer.text for answer in answers]


def test_json_that_fits_its_schema(engine):
    for text in texts(engine, Grammar("json_schema", json.dumps(SCHEMA))):
        value = json.loads(text)
        assert set(value) == {"name", "age", "tags"}
        assert isinstance(value["name"], str) and len(value["name"]) <= 12
        assert 0 <= value["age"] <= 150 and set(value["tags"]) <= {"红", "blue"}


def test_text_that_fits_a_regular_expression(engine):
    pattern = r"[A-Z]{2}-\d{3,5}(,今天|,明天)?"
    answers = texts(engine, Grammar("regex", pattern))
    assert all(re.fullmatch(pattern, text) for text in answers) and len(set(answers)) > 1


def test_one_of_several_texts(engine):
    choices = ["yes", "no", '"quoted\n"', "公园"]
    assert set(texts(engine, Grammar("choice", json.dumps(choices)), 20)) <= set(choices)


def test_a_grammar_in_larks_notation(engine):
    lark = 'start: sum\nsum: NUMBER ("+" NUMBER)~1..3\nNUMBER: /[1-9][0-9]?/'
    for text in texts(engine, Grammar("lark", lark)):
        assert re.fullmatch(r"[1-9]\d?(\+[1-9]\d?){1,3}", text)


def test_any_object(engine):
    closing = {engine.tokenizer.encode(text)[0]: 6.0 for text in ("}", '"')}
    for text in texts(engine, Grammar("json_object"), max_tokens=450, logit_bias=closing):
        assert isinstance(json.loads(text), dict)


def test_greedy_and_penalties_and_min_tokens_go_with_a_grammar(engine):
    grammar = Grammar("choice", '["a", "bb"]')
    (text,) = texts(engine, grammar, 1, temperature=0, min_tokens=50, repetition_penalty=1.3)
    assert text in ("a", "bb")


@pytest.mark.parametrize(
    "grammar", [Grammar("json_schema", json.dumps(SCHEMA)), Grammar("regex", "(ab|cd){3,20}")]
)
def test_speculation_changes_nothing(tiny_decoder, tiny_tokenizer, monkeypatch, grammar):
    monkeypatch.setattr(Speculator, "_plan", lambda self, *_: 4)
    model = tiny_decoder(max_position_embeddings=512)
    plain = texts(LLM(model, tiny_tokenizer, speculation=False), grammar)
    for draft in (None, model, tiny_decoder(seed=3)):
        engine = LLM(model, tiny_tokenizer, draft=draft)
        assert texts(engine, grammar) == plain
        assert engine.stats().free_blocks == engine.stats().total_blocks


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("json_schema", "{", "JSON schema cannot be read"),
        ("json_schema", "[" * 30_000, "JSON schema cannot be read"),
        ("json_schema", '{"type": "nothing"}', "JSON schema cannot be used"),
        ("json_schema", '{"$ref": "http://example.com/schema"}', "JSON schema cannot be used"),
        ("json_schema", '{"$ref": "file:///etc/passwd"}', "JSON schema cannot be used"),
        ("regex", "(", "regular expression cannot be used"),
        ("lark", "start: missing", "grammar cannot be used"),
        ("lark", "", "grammar cannot be used"),
        ("choice", "[]", "choice cannot be read"),
        ("choice", '{"a": 1}', "choice cannot be read"),
        ("xml", "", "kind 'xml'"),
        ("regex", "a" * 70_000, "70000 characters"),
        ("lark", "start[temperature=0.5]: /a+/", "temperature has no effect here"),
    ],
)
def test_wrong_grammars_are_refused_with_a_sentence(engine, kind, text, message):
    with pytest.raises(UsageError, match=message):
        engine.add([1], SamplingParams(grammar=Grammar(kind, text)))
    assert not engine.scheduler.busy


HOSTILE = [
    ("regex", "(a|aa|aaa)*" * 200 + "b"),
    ("regex", "(x{1,1000}){1,1000}"),
    ("regex", ".*" + "(a|b)" + ".{500}" + "c" * 50),
    ("regex", "(.*a){200}"),
    ("lark", "start: a\n" + "\n".join(f"a{i}: a{i + 1} a{i + 1}" for i in range(40)) + "\na: a0\na40: /x/"),
    ("lark", 'start: s\ns: s s s | "a" | ""'),
    (
        "json_schema",
        json.dumps({"anyOf": [{"type": "string", "pattern": f"(a|b){{{i},999}}"} for i in range(300)]}),
    ),
]


@pytest.mark.parametrize(("kind", "text"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_grammars_cost_little(tiny_tokenizer, kind, text):
    """Refused, or followed for some tokens; either within bounds that a step can bear (and never a crash)."""
    began = time.process_time()
    try:
        constraint = Grammars(tiny_tokenizer, [tiny_tokenizer.eos_id]).constraint(Grammar(kind, text))
    except UsageError:
        pass
    else:
        for _ in range(20):
            mask = constraint.mask(())
            token = next(i for i in range(tiny_tokenizer.vocab_size) if mask[i // 8] >> i % 8 & 1)
            if constraint.push(token):
                break
    assert time.process_time() - began < 60


def test_a_grammar_that_fails_on_the_way_ends_its_request_alone(engine):
    class Failing:
        error = None

        def mask(self, drafts):
            self.error = "The grammar could not be followed: too hard."
            ends = sum(1 << token for token in engine.ends)
            return ends.to_bytes(64, "little")

        def push(self, token):
            return self.error is not None

    bad = engine.add([1, 2], SamplingParams(grammar=Grammar("choice", '["x"]')))
    bad.grammar = Failing()
    good = engine.add([1, 2], SamplingParams(max_tokens=5, ignore_eos=True))
    while not good.finished:
        engine.step()
    assert bad.finish_reason == "abort" and "too hard" in bad.error
    assert good.finish_reason == "length" and good.error is None


DIVIDED = '{"type": "integer", "multipleOf": %s}'


@pytest.mark.parametrize(
    "text",
    [
        DIVIDED % 1234567,
        DIVIDED % 99730,
        DIVIDED % "1e30",
        DIVIDED.replace("multipleOf", "multiple\\u004ff") % 1234567,
        json.dumps({"type": "integer", "allOf": [{"multipleOf": 307}, {"multipleOf": 311}]}),
        json.dumps({"type": "number", "allOf": [{"multipleOf": 307}, {"multipleOf": 3.11}]}),
        json.dumps({"anyOf": [{"type": "integer", "multipleOf": 990 + i} for i in range(9)]}),
    ],
)
def test_divisors_with_too_many_remainders_are_refused(text):
    """What they cost is not in the compiler's fuel: one of them held up an engine for a minute."""
    for kind, whole in (("json_schema", text), ("lark", f"start: %json {text}")):
        with pytest.raises(UsageError, match="multipleOf"):
            Grammar(kind, whole)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 4999},
        {"type": "number", "multipleOf": 0.01},
        {"type": "integer", "multipleOf": 86400},
        {"type": "integer", "multipleOf": 100_000_000},
        {"properties": {"price": {"multipleOf": 0.01}, "many": {"multipleOf": 12}, "all": {"multipleOf": 5}}},
        {"properties": {"multipleOf": {"type": "integer"}}},
    ],
)
def test_divisors_that_people_use_are_taken(engine, schema):
    params = SamplingParams(max_tokens=2, grammar=Grammar("json_schema", json.dumps(schema)))
    (answer,) = engine.generate([[1]], params)
    assert answer.tokens and answer.finish_reason in ("stop", "length")


def test_many_choices_may_begin_alike(engine):
    choices = [f"item {number}" for number in range(3000)]
    params = SamplingParams(temperature=0, max_tokens=30, grammar=Grammar("choice", json.dumps(choices)))
    (answer,) = engine.generate([[1]], params)
    assert answer.text in choices and answer.finish_reason == "stop"


@pytest.mark.parametrize("text", ["(a{9000}){9000}", "a{99999999999}", "((x{300}){300}){300}"])
def test_repetitions_that_would_be_written_out_for_long_are_refused(text):
    with pytest.raises(UsageError, match="written out"):
        Grammar("regex", text)

"""Conversations by ChatML and by foreign templates: what is learnt, and that text never becomes markup."""

import json

import pytest

from weft.core.errors import DataError
from weft.tokenizer import Tokenizer, chat, train
from weft.tokenizer.answers import Encoded, encode_answers
from weft.tokenizer.template import render

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "你好，今天星期几？"},
    {"role": "assistant", "content": "星期三。"},
    {"role": "user", "content": "And <|im_end|> tomorrow?"},
    {"role": "assistant", "content": "\nThursday <|im_end|> of course."},
]
LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if loop.index0 > 0 and m['role'] == messages[loop.index0 - 1]['role'] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter([message["content"] for message in TALK] * 4), 384)


def foreign(tokenizer: Tokenizer, template: str) -> Tokenizer:
    content = tokenizer._special.to_str()
    return Tokenizer(content, {"eos_token": "<|endoftext|>", "chat_template": template})


def learnt(tokenizer: Tokenizer, made: Encoded) -> list[str]:
    spans = zip(made.answers[::2], made.answers[1::2], strict=True)
    return [tokenizer.decode(made.ids[start:stop]) for start, stop in spans]


def encode(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> Encoded:
    made = encode_answers(tokenizer, [messages])[0]
    assert isinstance(made, Encoded)
    return made


def test_chatml_learns_answers_with_their_end(tokenizer: Tokenizer) -> None:
    made = encode(tokenizer, TALK)
    assert tokenizer.decode(made.ids) == chat.render(TALK, add_generation_prompt=False) + "<|endoftext|>"
    assert learnt(tokenizer, made) == ["星期三。<|im_end|>", "\nThursday <|im_end|> of course.<|im_end|>"]
    # Five ends of turns: those that messages spell stay text.
    assert made.ids.count(tokenizer.token_id("<|im_end|>")) == 5 and made.ids[-1] == tokenizer.eos_id


def test_what_is_learnt_follows_the_prompt_that_is_met(tokenizer: Tokenizer) -> None:
    for end in (2, 4):
        made = encode(tokenizer, TALK[: end + 1])
        prompt = chat.encode(tokenizer, TALK[:end])
        assert made.ids[: made.answers[-2]] == prompt


def test_a_foreign_template_is_cut_at_the_messages(tokenizer: Tokenizer) -> None:
    other = foreign(tokenizer, LLAMA)
    made = encode(other, TALK)
    names = {"bos_token": "<|endoftext|>"}
    assert other.decode(made.ids) == render(LLAMA, TALK, names, add_generation_prompt=False) + "<|endoftext|>"
    assert learnt(other, made) == ["星期三。<|im_end|>", "Thursday <|im_end|> of course.<|im_end|>"]
    assert made.ids.count(other.token_id("<|im_end|>")) == 5


def test_without_an_end_of_turn_the_end_of_text_is_learnt(tokenizer: Tokenizer) -> None:
    other = foreign(tokenizer, "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")
    made = encode(other, TALK[1:3])
    assert learnt(other, made) == ["星期三。<|endoftext|>"]
    ended = foreign(tokenizer, "{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}")
    made = encode(ended, TALK[1:3])
    assert learnt(ended, made) == ["星期三。<|endoftext|>"] and made.ids.count(ended.eos_id) == 1


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (LLAMA, "roles must alternate"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes the text"),
        ("{% for m in messages %}", "refuses the messages"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "refuses the messages"),
        ("{{ messages[0].update({'content': 'x'}) }}", "refuses the messages"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "refuses the messages"),
    ],
)
def test_what_a_template_cannot_write_is_said(tokenizer: Tokenizer, template: str, message: str) -> None:
    twice = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    good = [{"role": "user", "content": "ONE"}, {"role": "assistant", "content": "TWO"}]
    found = encode_answers(foreign(tokenizer, template), [twice, good])
    assert isinstance(found[0], DataError) and message in str(found[0]) and "\n" not in str(found[0])


def test_templates_see_what_transformers_gives_them(tokenizer: Tokenizer) -> None:
    template = (
        "{% for m in messages %}\n  {%- if loop.first %}\n{{ m | tojson }}\n  {% endif %}\n{% endfor %}"
    )
    text = render(template, [{"role": "user", "content": "你 <b>"}], {}, add_generation_prompt=False)
    assert json.loads(text) == {"role": "user", "content": "你 <b>"}
    assert "你 <b>" in text


def test_equal_to_transformers(tokenizer: Tokenizer) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    for template in (LLAMA, "{%- for m in messages %}\n  {{- m.role + m.content }}\n{%- endfor %}"):
        expected, _ = utils.render_jinja_template(
            [TALK], chat_template=template, add_generation_prompt=True, bos_token="<s>"
        )
        assert render(template, TALK, {"bos_token": "<s>"}, add_generation_prompt=True) == expected[0]

"""Text while it comes: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import random

import pytest

from metaspace import metaspace_tokenizer
from weft.engine import LLM, SamplingParams
from weft.engine.text import ByteDetokenizer, TextStream, WindowDetokenizer, text_stream

SAMPLES = ("今天天气很好，语言模型。", "😀🎉👩‍👩‍👧 family", "plain words", "héllo — ß", "混合 mixed 🎈")


@pytest.mark.parametrize("text", SAMPLES)
def test_bytes_become_whole_characters(tiny_tokenizer, text):
    tokens = [tiny_tokenizer.encode_bytes(bytes([byte]))[0] for byte in text.encode()]
    stream = TextStream(ByteDetokenizer(tiny_tokenizer))
    pieces = [stream.push(token) for token in tokens] + [stream.finish()]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_any_tokens_stream_to_the_text_they_decode_to(tiny_tokenizer):
    chance = random.Random(1)
    for _ in range(50):
        tokens = [chance.randrange(512) for _ in range(30)]
        stream = text_stream(tiny_tokenizer, [1])
        text = "".join([*map(stream.push, tokens), stream.finish()])
        assert text == tiny_tokenizer.decode(tokens, skip_special=True)


def test_half_a_character_at_the_end_shows_as_the_replacement(tiny_tokenizer):
    half = tiny_tokenizer.encode_bytes("好".encode()[:2])
    stream = text_stream(tiny_tokenizer, [1])
    assert [stream.push(token) for token in half] == [""] * len(half)
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("STOP",), "one ST two STO three "),
        (("three", "two"), "one ST "),
        (("nowhere",), "one ST two STO three STOP four"),
        ((" four",), "one ST two STO three STOP"),
        (("o",), ""),
        (("STO three STOP four!",), "one ST two STO three STOP four"),
    ],
)
def test_stop_strings_across_token_borders(tiny_tokenizer, stop, expected):
    text = "one ST two STO three STOP four"
    for tokens in (tiny_tokenizer.encode(text), [tiny_tokenizer.encode(c)[0] for c in text]):
        stream, shown = text_stream(tiny_tokenizer, [1], stop), ""
        for token in tokens:
            shown += stream.push(token)
            assert expected.startswith(shown)
            if stream.stopped:
                break
        assert shown + stream.finish() == expected
        assert stream.stopped == (expected != text)


def test_a_chinese_stop_string_inside_bytes(tiny_tokenizer):
    tokens = [tiny_tokenizer.encode_bytes(bytes([byte]))[0] for byte in "你好。再见".encode()]
    stream = text_stream(tiny_tokenizer, [1], ("。",))
    assert "".join(map(stream.push, tokens[:9])) == "你好"
    assert stream.stopped


def test_the_engine_ends_at_a_stop_string(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    free = engine.generate([[5]], SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))[0]
    stop = free.text[8:11]
    cut = engine.generate([[5]], SamplingParams(temperature=0, max_tokens=40, stop=(stop,), ignore_eos=True))[
        0
    ]
    assert cut.finish_reason == "stop"
    assert cut.text == free.text[: free.text.index(stop)]
    pieces = engine.stream([5], SamplingParams(temperature=0, max_tokens=40, stop=(stop,), ignore_eos=True))
    assert "".join(pieces) == cut.text


def test_vocabularies_that_are_not_byte_level():
    tokenizer = metaspace_tokenizer()
    emoji = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "😀".encode()]
    tokens = [3, 4, *emoji, 6, 2, 3, 1]
    stream = text_stream(tokenizer, [2])
    assert isinstance(stream._detokenizer, WindowDetokenizer)
    pieces = [stream.push(token) for token in tokens] + [stream.finish()]
    assert pieces == [" world", "!", "", "", "", "😀", "好", " Hello", " world", "", ""]


def test_prompts_that_end_in_tokens_that_the_tokenizer_has_not():
    tokenizer = metaspace_tokenizer()
    stream = text_stream(tokenizer, [2, tokenizer.vocab_size + 7])
    assert stream.push(3) == " world"


def test_prompts_that_end_in_bytes_or_within_a_character():
    """The window into the past begins and ends where characters do."""
    tokenizer, chance = metaspace_tokenizer(), random.Random(0)

    def spelled(character):
        whole = tokenizer.token_id(character)
        names = [character] if whole is not None else [f"<0x{byte:02X}>" for byte in character.encode()]
        return [tokenizer.token_id(name) for name in names]

    def some():
        return [token for character in chance.choices("!好汉😀é", k=7) for token in spelled(character)]

    for _ in range(300):
        tokens, cut = [2, *some()], chance.randint(1, 12)
        stream = text_stream(tokenizer, tokens[:cut])
        shown = "".join(map(stream.push, tokens[cut:])) + stream.finish()
        whole, before = tokenizer.decode(tokens), tokenizer.decode(tokens[:cut])
        assert "\ufffd" not in shown and whole.endswith(shown)
        if not before.endswith("\ufffd"):
            assert before + shown == whole

"""How tokens are spelled beside their log probabilities."""

from __future__ import annotations

from metaspace import metaspace_tokenizer
from weft.server.logprobs import chat_logprobs, completion_logprobs, spelling


def test_tokens_of_sentencepiece_are_spelled_as_they_stand_in_a_text():
    tokenizer = metaspace_tokenizer()
    emoji = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "😀".encode()]
    tokens = [2, 3, 4, *emoji, 6, tokenizer.token_id("<0x41>"), 1]
    spelled = [spelling(tokenizer, token) for token in tokens]
    assert spelled[:3] == [" Hello", " world", "!"] and spelled[7:] == ["好", "A", "</s>"]
    assert spelled[3:7] == ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80"]
    entries = [(token, -1.0, [(2, -1.0), (3, -2.0), (emoji[0], -3.0), (emoji[1], -4.0)]) for token in tokens]
    content = chat_logprobs(tokenizer, entries)["content"]
    assert bytes(byte for record in content[:-1] for byte in record["bytes"]).decode() == " Hello world!😀好A"
    tops = completion_logprobs(tokenizer, entries, [0] * len(tokens))["top_logprobs"]
    assert len(tops[0]) == 4, "tokens that differ are spelled apart"

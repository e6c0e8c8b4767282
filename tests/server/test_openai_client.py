"""The official client, unchanged, against a real server."""

from __future__ import annotations

import asyncio
import json
import math

import openai
import pydantic
import pytest

PROMPT = "今天天气"


@pytest.fixture
def api(client):
    with openai.OpenAI(base_url=f"{client.address}/v1", api_key="unused", max_retries=0) as api:
        yield api


@pytest.fixture
def need(client):
    """Skips where the engine does not offer a setting yet; the server answers 400 for it then."""

    def check(name: str) -> None:
        if name not in client.engine().facts["supported"]:
            pytest.skip(f"the engine has no {name} yet")

    return check


def test_models(api):
    assert [model.id for model in api.models.list()] == ["tiny"]
    assert api.models.retrieve("tiny").id == "tiny"
    assert api.models.retrieve("tiny").to_dict()["weights"] == {"format": "float32", "choices": []}


def test_completions_whole_streamed_and_with_usage(api):
    ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 20, "temperature": 0}
    whole = api.completions.create(**ask)
    assert whole.usage.completion_tokens <= 20
    parts = list(api.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text
    assert parts[-1].usage == whole.usage


def test_every_event_of_a_stream_may_tell_the_tokens_so_far(api):
    """One event may hold several tokens: a step that guesses them takes more than one."""
    ask = {"model": "tiny", "max_tokens": 40, "temperature": 0, "stream": True, "seed": 0}
    ask |= {"extra_body": {"ignore_eos": True}, "n": 2}
    options = {"include_usage": True, "continuous_usage_stats": True}
    talk = {"messages": [{"role": "user", "content": "import os\n" * 2}], "logprobs": True}
    written = {"prompt": "import os\n" * 4, "logprobs": 0}
    for create, given in ((api.chat.completions.create, talk), (api.completions.create, written)):
        tokens = 0
        for part in create(**ask, **given, stream_options=options):
            for choice in part.choices:
                scores = choice.logprobs
                tokens += len(scores.content if given is talk else scores.tokens) if scores else 0
            assert part.usage.completion_tokens == tokens
            assert part.usage.total_tokens == part.usage.prompt_tokens + tokens
        assert tokens == 80 and not part.choices
    alone = list(api.completions.create(**ask, **written, stream_options={"continuous_usage_stats": True}))
    assert alone[-1].choices and alone[-1].usage.completion_tokens == 80


def test_echo_n_and_seed(api):
    ask = {"model": "tiny", "prompt": [PROMPT, "a"], "max_tokens": 8, "n": 2, "seed": 7, "echo": True}
    first, second = (api.completions.create(**ask, temperature=1.5) for _ in range(2))
    assert [choice.text for choice in first.choices] == [choice.text for choice in second.choices]
    assert [choice.text.startswith(PROMPT) for choice in first.choices] == [True, True, False, False]
    assert all(choice.text.startswith("a") for choice in first.choices[2:])
    parts = list(api.completions.create(**ask, temperature=1.5, stream=True))
    texts = [""] * 4
    for part in parts:
        texts[part.choices[0].index] += part.choices[0].text
    assert texts == [choice.text for choice in first.choices]


def test_chat_whole_streamed_and_async(api, client):
    messages = [{"role": "developer", "content": "你是助手"}, {"role": "user", "content": "你好"}]
    ask = {"model": "tiny", "messages": messages, "max_completion_tokens": 12, "seed": 3, "user": "u"}
    whole = api.chat.completions.create(**ask)
    parts = list(api.chat.completions.create(**ask, stream=True))
    streamed = "".join(part.choices[0].delta.content or "" for part in parts)
    assert streamed == whole.choices[0].message.content
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason

    async def ask_many():
        async with openai.AsyncOpenAI(base_url=f"{client.address}/v1", api_key="unused") as many:
            return await asyncio.gather(*(many.chat.completions.create(**ask) for _ in range(6)))

    texts = {answer.choices[0].message.content for answer in asyncio.run(ask_many())}
    assert texts == {whole.choices[0].message.content}


def test_embeddings_in_both_encodings(api):
    """The client asks for base64 unless told otherwise."""
    both = [
        api.embeddings.create(model="tiny", input=["今天", "hello"], **extra)
        for extra in ({}, {"encoding_format": "float"})
    ]
    for first, second in zip(both[0].data, both[1].data, strict=True):
        assert first.embedding == pytest.approx(second.embedding, abs=1e-7)
        assert math.fsum(value * value for value in first.embedding) == pytest.approx(1, abs=1e-5)
    assert both[0].usage.prompt_tokens > 0
    size = len(both[0].data[0].embedding)
    same = api.embeddings.create(model="tiny", input=["今天", "hello"], dimensions=size)
    assert same.data[0].embedding == both[0].data[0].embedding
    with pytest.raises(openai.BadRequestError, match=f"have {size} dimensions and cannot be cut to 8"):
        api.embeddings.create(model="tiny", input="a", dimensions=8)


def test_an_embedding_is_the_mean_of_the_last_hidden_states(api, tiny_decoder):
    import torch

    from weft.ops.attention import PackedRows

    tokens = [5, 6, 7, 400]
    rows = PackedRows(torch.zeros(1, 4, dtype=torch.int32))
    mean = tiny_decoder()(torch.tensor([tokens]), rows)[0].mean(0)
    expected = (mean / mean.norm()).tolist()
    found = api.embeddings.create(model="tiny", input=tokens).data[0].embedding
    assert found == pytest.approx(expected, abs=1e-5)


def test_errors_are_the_clients_own_classes(api):
    with pytest.raises(openai.NotFoundError, match="no model"):
        api.completions.create(model="gpt", prompt="a")
    with pytest.raises(openai.BadRequestError, match="129 tokens"):
        api.completions.create(model="tiny", prompt=[5] * 129)
    with pytest.raises(openai.BadRequestError, match="not supported"):
        api.completions.create(model="tiny", prompt="a", extra_body={"foo": 1})


def test_penalties_and_bias(api, need):
    for name in ("frequency_penalty", "presence_penalty", "logit_bias", "min_tokens", "stop_token_ids"):
        need(name)
    ask = {"model": "tiny", "prompt": [5], "max_tokens": 12, "temperature": 0}
    forced = api.completions.create(**ask, logit_bias={"65": 100}, echo=False)
    assert len(set(forced.choices[0].text)) == 1 and forced.choices[0].finish_reason == "length"
    stopped = api.completions.create(**ask, logit_bias={"65": 100}, extra_body={"stop_token_ids": [65]})
    assert stopped.choices[0].finish_reason == "stop" and stopped.usage.completion_tokens == 1
    free = api.completions.create(**ask, frequency_penalty=2, presence_penalty=2)
    assert free.usage.completion_tokens >= 1


def test_logprobs_of_completions(api, need):
    need("logprobs")
    ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 9, "temperature": 0, "logprobs": 3}
    choice = api.completions.create(**ask).choices[0]
    found = choice.logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset)
    assert all(value <= 0 for value in found.token_logprobs)
    assert all(
        max(top.values()) == pytest.approx(value)
        for top, value in zip(found.top_logprobs, found.token_logprobs, strict=True)
    )
    for top in found.top_logprobs:
        assert list(top.values()) == sorted(top.values(), reverse=True)
    streamed = [part.choices[0].logprobs for part in api.completions.create(**ask, stream=True)]
    assert [token for one in streamed if one for token in one.tokens] == found.tokens
    assert [offset for one in streamed if one for offset in one.text_offset] == found.text_offset


@pytest.fixture
def expected(tiny_decoder):
    """Log probabilities [T - 1, V] after each token of a prompt, from one plain pass."""
    import torch

    from weft.ops.attention import PackedRows

    def make(tokens):
        rows = PackedRows(torch.zeros(1, len(tokens), dtype=torch.int32))
        model = tiny_decoder()
        return model.logits(model(torch.tensor([tokens]), rows))[0].log_softmax(-1)[:-1]

    return make


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_logprobs_of_the_prompt(api, tiny_tokenizer, expected, max_tokens):
    tokens = [*tiny_tokenizer.start_ids, *tiny_tokenizer.encode(PROMPT + "😀 fox")]
    ask = {"model": "tiny", "max_tokens": max_tokens, "temperature": 0, "echo": True, "logprobs": 2}
    answer = api.completions.create(**ask, prompt=PROMPT + "😀 fox")
    choice = answer.choices[0]
    found, many = choice.logprobs, len(tokens)
    assert choice.text.startswith(PROMPT + "😀 fox")
    assert answer.usage.completion_tokens == len(found.tokens) - many <= max_tokens
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    logs = expected(tokens)
    right = [float(row[token]) for row, token in zip(logs, tokens[1:], strict=True)]
    assert found.token_logprobs[1:many] == pytest.approx(right, abs=1e-5)
    best = [max(top.values()) for top in found.top_logprobs[1:many]]
    assert best == pytest.approx(logs.amax(-1).tolist(), abs=1e-5)
    places = [len(tiny_tokenizer.decode(tokens[:end]).rstrip("\ufffd")) for end in range(many)]
    first = len(tiny_tokenizer.decode(tiny_tokenizer.start_ids))
    assert found.text_offset[:many] == [max(0, place - first) for place in places]
    assert max_tokens == 0 or found.text_offset[many] == len(PROMPT + "😀 fox")
    streamed = list(api.completions.create(**ask, prompt=PROMPT + "😀 fox", stream=True))
    assert "".join(part.choices[0].text for part in streamed) == choice.text
    parts = [part.choices[0].logprobs for part in streamed if part.choices[0].logprobs]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [value for part in parts for value in getattr(part, name)] == getattr(found, name), name
    assert streamed[-1].choices[0].finish_reason == choice.finish_reason


def test_prompts_are_scored_as_evaluations_ask(api, expected):
    """Several prompts of token ids, one new token, and the likelihood from the scores of all but that."""
    prompts = [[5, 6, 7, 400], [511, 0, 3, 3, 3, 8, 9]]
    ask = {"model": "tiny", "prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    for tokens, choice in zip(prompts, api.completions.create(**ask, seed=1).choices, strict=True):
        found = choice.logprobs.token_logprobs[1:-1]
        right = [float(row[token]) for row, token in zip(expected(tokens), tokens[1:], strict=True)]
        assert found == pytest.approx(right, abs=1e-5)
        assert all(len(top) == 1 for top in choice.logprobs.top_logprobs[1:])


def test_samples_with_stops_have_the_scores_of_their_prompt(api):
    ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 4, "temperature": 1.5, "n": 3}
    free = api.completions.create(**ask, logprobs=1)
    stop = free.choices[0].text[2:4]
    choices = api.completions.create(**ask, logprobs=1, echo=True, stop=stop).choices
    assert choices[0].text == PROMPT + free.choices[0].text[: free.choices[0].text.index(stop)]
    assert choices[0].finish_reason == "stop"
    many = choices[0].logprobs.token_logprobs.index(free.choices[0].logprobs.token_logprobs[0])
    for choice in choices:
        assert choice.logprobs.token_logprobs[:many] == choices[0].logprobs.token_logprobs[:many]
        assert choice.text.startswith(PROMPT)
    best = api.completions.create(**{**ask, "n": 1}, best_of=3, logprobs=1, echo=True).choices[0]
    assert best.logprobs.token_logprobs[:many] == choices[0].logprobs.token_logprobs[:many]


def test_the_prompt_alone(api, tiny_tokenizer):
    prompts = [tiny_tokenizer.encode(PROMPT), [5] * 128]
    ask = {"model": "tiny", "prompt": prompts, "max_tokens": 0, "echo": True}
    answer = api.completions.create(**ask)
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 2
    assert answer.choices[0].text == PROMPT and answer.choices[0].logprobs is None
    assert answer.usage.completion_tokens == 0
    texts = ["", ""]
    for part in api.completions.create(**ask, stream=True):
        texts[part.choices[0].index] += part.choices[0].text
    assert texts == [choice.text for choice in answer.choices]
    for wrong in (
        {"echo": False},
        {"max_tokens": -1},
        {"prompt": [5] * 129},
        {"prompt": [5] * 128, "max_tokens": 1},
    ):
        with pytest.raises(openai.BadRequestError):
            api.completions.create(**{**ask, **wrong})
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        api.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}], max_tokens=0)


def test_logprobs_of_chat(api, need):
    need("logprobs")
    ask = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "你好"}],
        "max_tokens": 6,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    content = api.chat.completions.create(**ask).choices[0].logprobs.content
    assert content and all(len(token.top_logprobs) == 2 for token in content)
    assert all(token.top_logprobs[0].logprob == pytest.approx(token.logprob) for token in content)
    streamed = [
        part.choices[0].logprobs for part in api.chat.completions.create(**ask, stream=True) if part.choices
    ]
    assert [token.token for one in streamed if one for token in one.content] == [t.token for t in content]


def test_the_best_of_several_is_the_likeliest(api, need):
    need("logprobs")
    ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "seed": 1, "temperature": 1.5, "logprobs": 0}
    mean = lambda choice: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.tokens)  # noqa: E731
    several = sorted(map(mean, api.completions.create(**ask, n=5).choices), reverse=True)
    best = api.completions.create(**ask, n=2, best_of=5).choices
    assert list(map(mean, best)) == pytest.approx(several[:2])


def test_structured_answers(api, need):
    need("grammar")
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "seed": 1, "max_tokens": 100}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer = json.loads(api.chat.completions.create(**ask, response_format=form).choices[0].message.content)
    assert isinstance(answer["ok"], bool) and answer["n"] in (1, 2)


class Answer(pydantic.BaseModel):
    ok: bool


# The client itself warns of dumping what it parsed.
@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_an_answer_goes_back_as_the_client_dumps_it(api, endless, need):
    need("grammar")
    messages = [{"role": "user", "content": "x"}]
    ask = {"model": "tiny", "max_completion_tokens": 100, "seed": 1}
    whole = api.chat.completions.create(**{**ask, "max_completion_tokens": 9}, messages=messages)
    parsed = api.chat.completions.parse(**ask, messages=messages, response_format=Answer)
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    url = f"{endless.address}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0) as longer:
        for answer in (whole, parsed):
            message = answer.choices[0].message
            for again in (message, message.model_dump()):
                turns = [*messages, again, *messages]
                assert longer.chat.completions.create(model="tiny", max_tokens=2, messages=turns).choices


TOOL = {
    "type": "function",
    "function": {
        "name": "天气.get",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["北京", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_that_must_be_called_is_called(endless, need, choice):
    """The description of the tools alone has more tokens than the other server's context holds."""
    need("grammar")
    api = openai.OpenAI(base_url=f"{endless.address}/v1", api_key="unused", max_retries=0)
    tool = {**TOOL, "function": {**TOOL["function"], "name": "weather"}}
    ask = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "?"}],
        "tools": [tool],
        "tool_choice": choice,
        "seed": 2,
        "max_tokens": 1000,
    }
    (choice_,) = api.chat.completions.create(**ask).choices
    assert choice_.finish_reason == "tool_calls"
    (call,) = choice_.message.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("北京", "Oslo")
    with api.chat.completions.stream(**ask) as stream:
        for _ in stream:
            pass
    (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.arguments == call.function.arguments
    api.close()

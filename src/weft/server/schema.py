"""The fields of OpenAI's requests that this server understands; any other field is refused.

``top_k``, ``min_p``, ``repetition_penalty``, ``min_tokens``, ``stop_token_ids``, ``ignore_eos`` and
``continuous_usage_stats`` are extensions. Fields that would change the answer in a way this server cannot
give are accepted only with the value that changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticKnownError

_TOKEN = re.compile("0|[1-9][0-9]{0,9}")
COMPLETION_TOKENS = 16
"""What OpenAI's /v1/completions writes when ``max_tokens`` is not given; chat may fill the context."""

_ENGINE = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
)


def neutral(*values: object) -> AfterValidator:
    """Accepts None and ``values``, which change nothing."""

    def check(value: Any) -> Any:
        if value is not None and value not in values:
            raise ValueError("this server cannot do this; leave the field out")
        return value

    return AfterValidator(check)


Absent = Annotated[Any, neutral(), WithJsonSchema({"type": "null"})]
"""A field of OpenAI's that this server has nothing for: null, which clients write for what they leave out."""


T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list in which one wrong item is enough: a body of 4 MiB may hold a million, and to write down what is
wrong with each took half a minute and gigabytes."""


def at_most(count: int) -> BeforeValidator:
    """Refuses a larger object before its values are looked at, each of which may be wrong."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            sizes = {"field_type": "Dictionary", "max_length": count, "actual_length": len(value)}
            raise PydanticKnownError("too_long", sizes)
        return value

    return BeforeValidator(check)


class Strict(BaseModel):
    """Unknown fields, NaN, and numbers in the place of text are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _with_one_unknown(cls, given: Any) -> Any:
        """One field that is not known is enough, too."""
        if not isinstance(given, dict) or len(given) <= len(cls.model_fields):
            return given
        known = {field.alias or name for name, field in cls.model_fields.items()}
        first = next(name for name in given if name not in known)
        return {name: value for name, value in given.items() if name in known or name == first}


class StreamOptions(Strict):
    """What a stream tells besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Annotated[bool | None, neutral(False)] = None


class Sampling(Strict):
    """What completions and chat have in common."""

    model: str | None = None
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]] | None, at_most(1024)] = Field(
        default=None, max_length=1024
    )
    seed: int | None = None
    stop: str | Many[str] | None = None
    stop_token_ids: list[int] | None = Field(default=None, max_length=64)
    ignore_eos: bool | None = None
    user: str | None = Field(default=None, max_length=512)
    metadata: Annotated[dict[str, Any] | None, neutral({})] = None
    service_tier: Annotated[str | None, neutral("auto", "default")] = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the count of its tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every event of a stream has the count of the tokens so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def settings(self) -> dict[str, Any]:
        """What was asked for, by the names of :class:`weft.engine.SamplingParams`; what is off is left out.

        Raises ValueError for a ``logit_bias`` whose keys are no token ids.
        """
        given = {name: getattr(self, name) for name in _ENGINE if getattr(self, name) is not None}
        for name, off in (
            ("frequency_penalty", 0),
            ("presence_penalty", 0),
            ("min_tokens", 0),
            ("ignore_eos", False),
        ):
            if given.get(name) == off:
                del given[name]
        if self.logit_bias:
            given["logit_bias"] = {_token(token): value for token, value in self.logit_bias.items()}
        if self.stop_token_ids:
            given["stop_token_ids"] = self.stop_token_ids
        if self.stops:
            given["stop"] = list(self.stops)
        return given


def _token(key: str) -> int:
    """Raises ValueError for what is not the one way to write a token id."""
    if not _TOKEN.fullmatch(key):
        raise ValueError(f"{key!r} is no token id")
    return int(key)


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | Many[str] | Many[int] | Many[Many[int]]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None
    suffix: Annotated[str | None, neutral("")] = None
    best_of: int | None = Field(default=None, ge=1)

    def prompts(self) -> list[str | list[int]]:
        """Every prompt by itself: ``[1, 2]`` is one prompt of two tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(item, int) for item in self.prompt):
            return [cast("list[int]", self.prompt)] if self.prompt else []
        return cast("list[str | list[int]]", self.prompt)

    @property
    def limit(self) -> int | None:
        """New tokens at most."""
        return COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


def _shown(name: str) -> str:
    """The beginning of a name from a client; half a surrogate, which JSON may hold, by its number."""
    return name[:64].encode("utf-8", "backslashreplace").decode("utf-8")


def _known_parts(content: Any) -> Any:
    """Raises ValueError that names what a part holds besides text; a union would only say that it is none."""
    parts = content if isinstance(content, list) else []
    for part in parts:
        if not isinstance(part, dict):
            raise ValueError("a part of a message must be an object with type and text")
        if (kind := part.get("type")) != "text":
            named = f"{_shown(kind)} parts are" if isinstance(kind, str) else "a part without a type is"
            raise ValueError(f"{named} not supported; send parts of type text")
        given = {name for name, value in part.items() if value is not None}
        if others := sorted(given - {"type", "text"}):
            raise ValueError(f"{_shown(others[0])} is not supported in a part; leave it out")
    if not parts:
        return content
    return [{name: part[name] for name in ("type", "text") if name in part} for part in parts]


class CalledFunction(Strict):
    """The function of a call; ``arguments`` is JSON as text.

    ``parsed_arguments`` is what OpenAI's client read in it, and sends back with it.
    """

    name: str
    arguments: str
    parsed_arguments: Any = None


class ToolCall(Strict):
    """A call that the assistant made earlier."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def plain(self) -> dict[str, Any]:
        """The call as templates know it: arguments as an object, where the model wrote one."""
        arguments: Any = self.function.arguments
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": self.type, "function": function}


class ChatMessage(Strict):
    """One turn of a conversation.

    An answer may come back as OpenAI's client dumps it: ``parsed`` is what the client read in ``content``.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | Many[TextPart] | None, BeforeValidator(_known_parts)] = None
    name: str | None = Field(default=None, pattern=r"^[^\s<|\\/>]{1,64}$")
    tool_calls: Many[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: Annotated[str | None, neutral("")] = None
    annotations: Annotated[list[Any] | None, neutral([])] = None
    audio: Absent = None
    function_call: Absent = None
    parsed: Any = None

    def plain(self) -> dict[str, Any]:
        """The message as templates know it. Raises ValueError when something is missing or misplaced."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        if content is None and not self.tool_calls:
            raise ValueError(f"a message of {self.role} needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only messages of assistant have tool_calls")
        if self.tool_call_id is not None and self.role != "tool":
            raise ValueError("only messages of tool have a tool_call_id")
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": content or "",
        }
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            message["tool_calls"] = [call.plain() for call in self.tool_calls]
        return message


def _of_objects(parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Raises ValueError for a schema of what no arguments are."""
    if parameters is not None and parameters.get("type", "object") != "object":
        raise ValueError("the schema of a function's parameters must have the type object")
    return parameters


class FunctionTool(Strict):
    """What a function is called and takes; ``parameters`` is a JSON schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, AfterValidator(_of_objects)] = None
    strict: bool | None = None


class Tool(Strict):
    """A function that the model may ask to be called."""

    type: Literal["function"]
    function: FunctionTool


class NamedFunction(Strict):
    """A function by its name."""

    name: str


class NamedTool(Strict):
    """The one function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Strict):
    """The schema of an answer."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """What form the answer must have; ``regex``, ``choice`` and ``grammar`` (Lark) are extensions."""

    type: Literal["text", "json_object", "json_schema", "regex", "choice", "grammar"]
    json_schema: JsonSchema | None = None
    regex: str | None = None
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=1, max_length=1000
    )
    grammar: str | None = None


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=2048)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    store: Annotated[bool | None, neutral(False)] = None
    modalities: Annotated[Many[str] | None, neutral(["text"])] = None
    verbosity: Annotated[str | None, neutral("medium")] = None
    audio: Absent = None
    function_call: Absent = None
    functions: Absent = None
    moderation: Absent = None
    prediction: Absent = None
    prompt_cache_key: str | None = Field(default=None, max_length=512)
    prompt_cache_options: Absent = None
    prompt_cache_retention: Annotated[str | None, neutral("in_memory", "in-memory")] = None
    reasoning_effort: Annotated[str | None, neutral("none")] = None
    safety_identifier: str | None = Field(default=None, max_length=512)
    web_search_options: Absent = None

    @property
    def limit(self) -> int | None:
        """New tokens at most; ``max_tokens`` is the older name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

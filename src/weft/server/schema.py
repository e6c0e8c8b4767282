"""The fields of OpenAI's requests that this server understands; any other field is refused.

``top_k``, ``min_p`` and ``repetition_penalty`` are extensions. Fields of OpenAI's API that would change
the answer in a way the engine cannot give are accepted only with the value that changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from weft.engine import SamplingParams

COMPLETION_TOKENS = 16
"""What OpenAI's /v1/completions writes when ``max_tokens`` is not given; chat may fill the context."""


def _neutral(*values: object) -> AfterValidator:
    def check(value: Any) -> Any:
        if value is not None and value not in values:
            raise ValueError("this server cannot do this; leave the field out")
        return value

    return AfterValidator(check)


class Strict(BaseModel):
    """Unknown fields, NaN, and numbers in the place of text are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream tells besides text."""

    include_usage: bool = False


class Sampling(Strict):
    """What completions and chat have in common."""

    model: str | None = None
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: Annotated[float | None, _neutral(0)] = None
    presence_penalty: Annotated[float | None, _neutral(0)] = None
    logit_bias: Annotated[dict[str, Any] | None, _neutral({})] = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the count of its tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def params(self, max_tokens: int | None) -> SamplingParams:
        """The engine's settings; UsageError for values that make no sense. Null is the default."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return SamplingParams(max_tokens=max_tokens, stop=self.stops, **given)


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int | None, _neutral()] = None
    echo: Annotated[bool | None, _neutral(False)] = None
    suffix: Annotated[str | None, _neutral("")] = None
    best_of: Annotated[int | None, _neutral(1)] = None

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


class ChatMessage(Strict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """Role and content as text."""
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": self.role, "content": content}


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: Annotated[bool | None, _neutral(False)] = None
    top_logprobs: Annotated[int | None, _neutral(0)] = None
    tools: Annotated[list[Any] | None, _neutral([])] = None
    tool_choice: Annotated[str | None, _neutral("none", "auto")] = None

    @property
    def limit(self) -> int | None:
        """New tokens at most; ``max_tokens`` is the older name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

"""A loaded decoder, ready to write text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from weft.api.able import Able
from weft.core.errors import UsageError
from weft.core.registry import nearest
from weft.engine import LLM, Completion, SamplingParams
from weft.eval.protocol import GenerateRequest, Generation
from weft.models import Decoder
from weft.tokenizer import Tokenizer

DEFAULT_LENGTH = 50
DEFAULT_TEMPERATURE = 0.8


class Settings(TypedDict, total=False):
    """How tokens are drawn, as :class:`weft.engine.SamplingParams` says; None is the default."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    ignore_eos: bool | None


class Model(Able):
    """A model and its tokenizer. One thread may use it; ``llm`` is the engine below.

    The temperature is 0.8 unless given; the other :class:`Settings` are off.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        max_sequences: int = 8,
        ends: Sequence[int] = (),
        **engine: Any,
    ):
        """``engine``: more of what :class:`weft.engine.LLM` takes."""
        self.tokenizer, self.architecture = tokenizer, model.config.architecture
        self.llm = LLM(model, tokenizer, max_sequences=max_sequences, ends=ends, **engine)

    @overload
    def generate(
        self,
        prompt: str = ...,
        max_length: int | None = ...,
        num_samples: int = ...,
        *,
        max_new_tokens: int | None = ...,
        adapter: str | None = ...,
        **settings: Unpack[Settings],
    ) -> list[str]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[int],
        max_length: int | None = ...,
        num_samples: int = ...,
        *,
        max_new_tokens: int | None = ...,
        adapter: str | None = ...,
        **settings: Unpack[Settings],
    ) -> list[list[int]]: ...

    def generate(
        self,
        prompt: str | Sequence[int] = "",
        max_length: int | None = None,
        num_samples: int = 1,
        *,
        max_new_tokens: int | None = None,
        adapter: str | None = None,
        **settings: Unpack[Settings],
    ) -> list[str] | list[list[int]]:
        """Continue ``prompt`` ``num_samples`` times; each result begins with the prompt.

        A text gives texts, token ids give token ids. ``max_length`` counts tokens in total, the prompt's
        and the start-of-document token included, as in Hugging Face's ``generate``; ``max_new_tokens``
        counts only the new ones; give one of them (neither: ``max_length=50``). Samples with a seed are
        the same every time and differ from each other. ``adapter`` names a loaded LoRA adapter. Raises
        UsageError for settings that make no sense and for prompts too long for ``max_length`` or the model.
        """
        completions = self.complete(
            prompt, max_length, num_samples, max_new_tokens=max_new_tokens, adapter=adapter, **settings
        )
        if isinstance(prompt, str):
            return [prompt + completion.text for completion in completions]
        return [[*prompt, *completion.tokens] for completion in completions]

    def complete(
        self,
        prompt: str | Sequence[int],
        max_length: int | None = None,
        num_samples: int = 1,
        *,
        max_new_tokens: int | None = None,
        adapter: str | None = None,
        **settings: Unpack[Settings],
    ) -> list[Completion]:
        """As :meth:`generate`, with the new text and tokens alone, and why each ended."""
        if num_samples < 1:
            raise UsageError(f"num_samples = {num_samples} must be at least 1.")
        tokens = self.llm.encode(prompt)
        params = _params(_new_tokens(len(tokens), max_length, max_new_tokens), settings)
        each = [params.sample(i) for i in range(num_samples)]
        return self.llm.generate([tokens] * num_samples, each, adapter=adapter)

    def stream(
        self,
        prompt: str | Sequence[int] = "",
        max_length: int | None = None,
        *,
        max_new_tokens: int | None = None,
        adapter: str | None = None,
        **settings: Unpack[Settings],
    ) -> Iterator[str]:
        """The new text of one sample, in pieces as they come; lengths and errors as :meth:`generate`."""
        tokens = self.llm.encode(prompt)
        params = _params(_new_tokens(len(tokens), max_length, max_new_tokens), settings)
        return self.llm.stream(tokens, params, adapter=adapter)

    def generate_until(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Evaluation's third method (:class:`weft.eval.protocol.LanguageModel`), done by the engine."""
        params = [
            SamplingParams(
                max_tokens=request.max_new_tokens,
                temperature=request.temperature,
                seed=request.seed,
                stop=request.until,
            )
            for request in requests
        ]
        answers = self.llm.generate([request.context for request in requests], params)
        return [Generation(answer.text, answer.finish_reason == "stop") for answer in answers]

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int | None = None,
        adapter: str | None = None,
        **settings: Unpack[Settings],
    ) -> str:
        """The assistant's answer to ``messages`` (each with ``role`` and ``content``), as ChatML turns.

        Without ``max_new_tokens`` it may fill the context. DataError when the tokenizer has no ChatML.
        """
        params = _params(max_new_tokens, settings)
        return self.llm.generate([self.llm.encode_chat(messages)], params, adapter=adapter)[0].text

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Read the LoRA adapter in the PEFT ``folder``; requests name it ``name`` from now on.

        UsageError when the model was loaded without ``adapters``, or the name is in use; CheckpointError for
        an adapter that is damaged or of another model.
        """
        self.llm.adapters.load(name, folder)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. UsageError for an unknown name."""
        self.llm.unload_adapter(name)


def _new_tokens(prompt_tokens: int, max_length: int | None, max_new_tokens: int | None) -> int:
    if max_new_tokens is not None:
        if max_length is not None:
            raise UsageError("Give max_length (tokens in total) or max_new_tokens, not both.")
        return max_new_tokens
    total = DEFAULT_LENGTH if max_length is None else max_length
    if total <= prompt_tokens:
        raise UsageError(
            f"The prompt has {prompt_tokens} tokens and max_length = {total} counts them too; give a larger "
            "max_length, or max_new_tokens."
        )
    return total - prompt_tokens


def _params(max_tokens: int | None, settings: Settings) -> SamplingParams:
    given: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
    for name in given:
        if name not in Settings.__annotations__:
            guess = nearest(name, Settings.__annotations__)
            hint = f"did you mean {guess}?" if guess else f"known: {', '.join(Settings.__annotations__)}."
            raise UsageError(f"{name} is not a setting of generation; {hint}")
    stop = given.pop("stop", ())
    if not isinstance(stop, (str, list, tuple)):
        raise UsageError(f"stop = {stop!r} must be a text or a list of texts.")
    given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return SamplingParams(max_tokens=max_tokens, **{"temperature": DEFAULT_TEMPERATURE, **given})

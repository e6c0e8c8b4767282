"""The fields of requests that write no text: vectors, token ids, adapters; see :mod:`weft.server.schema`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, WithJsonSchema

from weft.server.schema import ChatMessage, Many, Strict


class EmbeddingRequest(Strict):
    """POST /v1/embeddings."""

    model: str | None = None
    input: str | Many[str] | Many[int] | Many[Many[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = Field(default=None, max_length=512)

    def inputs(self) -> list[str | list[int]]:
        """Every input by itself."""
        if isinstance(self.input, str):
            return [self.input]
        if all(isinstance(item, int) for item in self.input):
            return [cast("list[int]", self.input)] if self.input else []
        return cast("list[str | list[int]]", self.input)


def _written(document: Any) -> Any:
    """The text of ``{"text": …}``. Raises ValueError for other objects."""
    if not isinstance(document, dict):
        return document
    if document.keys() != {"text"}:
        raise ValueError("a document is a text, or an object with text alone")
    return document["text"]


_DOCUMENT: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
Document = Annotated[
    str, BeforeValidator(_written), WithJsonSchema({"anyOf": [{"type": "string"}, _DOCUMENT]})
]
"""A text; Cohere and Jina also take an object around it."""


class RerankRequest(Strict):
    """POST /v1/rerank, in the form that Cohere and Jina use."""

    model: str | None = None
    query: str
    documents: Many[Document] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    user: str | None = Field(default=None, max_length=512)


class TokenizeRequest(Strict):
    """POST /tokenize: a ``prompt``, or ``messages`` with the chat template around them."""

    model: str | None = None
    prompt: str | None = None
    messages: Many[ChatMessage] | None = Field(default=None, min_length=1)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: str | None = None
    tokens: Many[int]


class UnloadAdapter(Strict):
    """POST /v1/unload_lora_adapter, named as in vLLM."""

    lora_name: str = Field(min_length=1, max_length=256)


class LoadAdapter(UnloadAdapter):
    """POST /v1/load_lora_adapter; ``lora_path`` counts from the server's folder for adapters."""

    lora_path: str = Field(min_length=1, max_length=4096)
    model: str | None = None

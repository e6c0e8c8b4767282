"""A tokenizer as the metadata of a GGUF file."""

from __future__ import annotations

import json
from typing import Any

from weft.core.errors import CheckpointError
from weft.tokenizer import Tokenizer
from weft.tokenizer.train import SPLIT

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {SPLIT: "qwen2", _LLAMA3_SPLIT: "llama-bpe"}
"""How texts are split before merges, and llama.cpp's name for it."""


def vocabulary(tokenizer: Tokenizer | None, content: str, vocab_size: int) -> dict[str, Any]:
    """Metadata of ``tokenizer``, whose tokenizer.json is ``content``; without one, of bare token ids.

    Raises CheckpointError for a tokenizer that llama.cpp cannot imitate.
    """
    if tokenizer is None:
        return {"tokenizer.ggml.model": "no_vocab"}
    table = json.loads(content)
    if table["model"].get("type") != "BPE" or not tokenizer.is_byte_level:
        raise CheckpointError("Only byte-level BPE tokenizers can be written to GGUF; this one is another.")
    names = {index: token for token, index in table["model"]["vocab"].items()}
    added = {token["id"]: token for token in table["added_tokens"]}
    tokens, kinds = [], []
    for index in range(vocab_size):
        if index in added:
            tokens.append(added[index]["content"])
            kinds.append(_CONTROL if added[index]["special"] else _USER_DEFINED)
        else:
            tokens.append(names.get(index, f"<|unused_{index}|>"))
            kinds.append(_NORMAL if index in names else _UNUSED)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in table["model"]["merges"]]
    start = tokenizer.start_ids
    begin = tokenizer.token_id(tokenizer.template_names["bos_token"])
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _split_name(table.get("pre_tokenizer")),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
        "tokenizer.ggml.bos_token_id": start[0] if start else tokenizer.eos_id if begin is None else begin,
        "tokenizer.ggml.add_bos_token": bool(start),
    }
    if tokenizer.chat_template:
        found["tokenizer.chat_template"] = tokenizer.chat_template
        with_tools = tokenizer.template(tools=True)
        if with_tools != tokenizer.chat_template:
            found["tokenizer.chat_template.tool_use"] = with_tools
    return found


def _split_name(table: dict[str, Any] | None) -> str:
    parts = (table or {}).get("pretokenizers", [table or {}])
    patterns = [part["pattern"].get("Regex") for part in parts if part.get("type") == "Split"]
    if patterns and patterns[0] in _SPLITS:
        return _SPLITS[patterns[0]]
    if not patterns and any(
        part.get("type") == "ByteLevel" and part.get("use_regex", True) for part in parts
    ):
        return "gpt-2"
    raise CheckpointError(
        "The tokenizer splits texts in a way that has no name in llama.cpp, which would encode them "
        "differently; known are the splits of GPT-2, Qwen2 and Llama 3."
    )

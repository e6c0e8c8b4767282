"""A vocabulary that is not byte-level: the words of SentencePiece, and its tokens for single bytes."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models

from weft.tokenizer import Tokenizer


def metaspace_tokenizer() -> Tokenizer:
    """Metaspace words and byte fallback, as Llama 2 and Mistral have."""
    words = ["<unk>", "</s>", "▁Hello", "▁world", "!", "▁", "好"]
    names = words + [f"<0x{byte:02X}>" for byte in range(256)]
    bpe = models.BPE(
        vocab={name: i for i, name in enumerate(names)}, merges=[], byte_fallback=True, unk_token="<unk>"
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["</s>"])
    return Tokenizer(tokenizer.to_str(), {"eos_token": "</s>"})

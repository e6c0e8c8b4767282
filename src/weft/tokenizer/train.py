"""Training of a byte-level BPE vocabulary (Sennrich et al. 2016; byte-level as in GPT-2)."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from weft.core.errors import UsageError
from weft.tokenizer.encode import Tokenizer
from weft.tokenizer.special import END_OF_TEXT, MASK, SPECIAL_TOKENS

# Qwen2's split: GGUF converters know it as "qwen2". Digits stay single; Han text is split by the merges.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Each Han character and each mark apart, so that no token crosses the border of a span.
HAN_APART = (
    r"\p{Han}|'[stmd]\b|'(?:re|ve|ll)\b| ?[\p{L}\p{M}&&[^\p{Han}]]+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]|\s*[\r\n]+|\s+(?!\S)|\s+"
)

MULTIPLE = 64
"""Vocabulary sizes are multiples of this: matrix kernels want it."""

SMALLEST = 320
"""256 bytes, the special tokens, rounded up."""


def train(texts: Iterable[str], vocab_size: int, *, encoder: bool = False) -> Tokenizer:
    """Learn merges from ``texts`` until the vocabulary has exactly ``vocab_size`` tokens.

    All 256 bytes are tokens, and no normaliser runs, so every round trip is exact. A text too small to
    give enough merges is filled up with reserved tokens. The order of the texts does not matter.
    ``encoder``: for models that label or fill in text; each Han character is a token of its own or several,
    never part of one with others, and there is a token that hides others.
    Raises UsageError for a size below 320 or not a multiple of 64.
    """
    check_vocab_size(vocab_size)
    special = (*SPECIAL_TOKENS, MASK) if encoder else SPECIAL_TOKENS
    split = HAN_APART if encoder else SPLIT
    tokenizer = tokenizers.Tokenizer(models.BPE())
    byte_level = {"add_prefix_space": False, "use_regex": False}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), behavior="isolated"), pre_tokenizers.ByteLevel(**byte_level)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    missing = vocab_size - len(special) - tokenizer.get_vocab_size()
    names = [*special, *(f"<|reserved_{i}|>" for i in range(missing))]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    # Every document starts after an end of text in training, so every program that encodes a prompt with
    # this file must put one there too.
    start = END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B", special_tokens=[start]
    )
    return Tokenizer(tokenizer.to_str())


def check_vocab_size(vocab_size: int) -> None:
    """UsageError unless ``vocab_size`` is one that :func:`train` accepts."""
    if vocab_size < SMALLEST or vocab_size % MULTIPLE:
        near = max(SMALLEST, round(vocab_size / MULTIPLE) * MULTIPLE)
        raise UsageError(
            f"A vocabulary of {vocab_size} tokens is not possible: the size must be a multiple of {MULTIPLE} "
            f"and at least {SMALLEST}; try {near}."
        )

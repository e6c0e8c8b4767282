"""Constrained answers: which tokens a grammar allows next, by llguidance. No torch here."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from weft.core.errors import UsageError
from weft.engine.grammar_source import LIMITS, WRONG, source_of
from weft.engine.params import Grammar
from weft.tokenizer import Tokenizer

_LIMITS = LLParserLimits(**LIMITS)  # type: ignore[arg-type]  # numbers and truth values have their own fields
_KEPT = 64
"""Compiled grammars that are remembered."""


class Grammars:
    """Compiles grammars for one tokenizer; ``ends`` are the tokens that may end an answer."""

    def __init__(self, tokenizer: Tokenizer, ends: Iterable[int]):
        self._tokenizer, self._ends = tokenizer, sorted(end for end in ends if end < tokenizer.vocab_size)
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def constraint(self, grammar: Grammar) -> LlguidanceConstraint:
        """The state of ``grammar`` before any token. UsageError for one that is wrong or too complex."""
        matcher = self._compiled.get(grammar)
        if matcher is None:
            matcher = self._compile(grammar)
            self._compiled[grammar] = matcher
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return LlguidanceConstraint(matcher.deep_copy(), self._end_mask)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        if self._words is None:
            raise UsageError(
                f"The {_name(grammar)} cannot be used: the compiler of grammars cannot read this model's "
                "tokenizer; ask for free text."
            )
        try:
            source = source_of(grammar.kind, grammar.text)
        except WRONG as error:
            raise UsageError(f"The {_name(grammar)} cannot be read: {_sentence(str(error))}") from None
        matcher = LLMatcher(self._words, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise UsageError(f"The {_name(grammar)} cannot be used: {_sentence(matcher.get_error())}")
        # Much is built only when the first mask is asked for; what is too complex then is refused here too.
        matcher.compute_bitmask()
        if matcher.is_error():
            raise UsageError(f"The {_name(grammar)} is too complex: {_sentence(matcher.get_error())}")
        return matcher

    @functools.cached_property
    def _words(self) -> LLTokenizer | None:
        """None for a tokenizer that the compiler cannot read: one whose decoder is a bare Metaspace, say."""
        try:
            return LLTokenizer(
                self._tokenizer.to_json(), n_vocab=self._tokenizer.vocab_size, eos_token=self._ends
            )
        except ValueError:
            return None

    @functools.cached_property
    def _end_mask(self) -> bytes:
        bits = sum(1 << token for token in self._ends)
        return bits.to_bytes(-(-self._tokenizer.vocab_size // 32) * 4, "little")


class LlguidanceConstraint:
    """One answer's state of a compiled grammar (a :class:`weft.engine.sequence.Constraint`)."""

    def __init__(self, matcher: LLMatcher, end_mask: bytes):
        self._matcher, self._end_mask = matcher, end_mask
        self.error: str | None = None

    def mask(self, drafts: Sequence[int]) -> bytes:
        """As the protocol says; nothing but the end once the grammar has failed."""
        taken = self._matcher.try_consume_tokens(list(drafts)) if drafts else 0
        try:
            mask = self._matcher.compute_bitmask()
        finally:
            if taken:
                self._matcher.rollback(taken)
        if self._failed():
            return self._end_mask
        return mask

    def push(self, token: int) -> bool:
        """As the protocol says."""
        if self.error is None:
            self._matcher.consume_token(token)
        return self._failed() or self._matcher.is_stopped()

    def restart(self, tokens: Sequence[int]) -> None:
        """As the protocol says."""
        if self.error is None:
            self._matcher.reset()
            self._matcher.consume_tokens(list(tokens))
            self._failed()

    def _failed(self) -> bool:
        if self.error is None and self._matcher.is_error():
            self.error = f"The grammar could not be followed: {_sentence(self._matcher.get_error())}"
        return self.error is not None


def _name(grammar: Grammar) -> str:
    names = {
        "json_schema": "JSON schema",
        "regex": "regular expression",
        "lark": "grammar",
        "choice": "choice",
    }
    return names.get(grammar.kind, grammar.kind)


def _sentence(error: str) -> str:
    """The first line of a foreign error, short, as the end of a sentence."""
    line = (error.strip().splitlines() or ["no reason given"])[0]
    return line[:300].rstrip(".") + "."

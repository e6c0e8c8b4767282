"""Grammars in the compiler's own notation, and the bounds of its work.

The compiler is all that this file needs: a server reads it in a process that has nothing else.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from llguidance import LLMatcher

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

LIMITS = {
    # At some 50,000 steps a millisecond and 15,000, a grammar gets tens of milliseconds to be built and a few
    # for each token; about 2 kB a state bound its memory. What they do not count is bounded before
    # (:class:`weft.engine.params.Grammar`), and by servers (:mod:`weft.server.trial`).
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_items_in_row": 1_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
"""Of the compiler's work; the fields of LLParserLimits."""
# As much white space as people indent with, and not for ever, which some models would write.
_JSON: JsonCompileOptions = {"whitespace_pattern": r"\n? {0,16}"}
_TEMPERATURE = re.compile(r"^\s*[?!]?\w+\s*\[[^\]\n]*\btemperature\s*=", re.MULTILINE)
WRONG = (ValueError, RecursionError, TypeError)
"""What :func:`source_of` raises for a grammar that is wrong."""


def source_of(kind: str, text: str) -> str:
    """The grammar in the compiler's own notation, not built yet. Raises one of WRONG, whose text says why."""
    if kind == "json_object":
        return LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=_JSON)
    if kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(json.loads(text), overrides=_JSON)
    if kind == "regex":
        return LLMatcher.grammar_from_regex(text)
    if kind == "lark":
        if _TEMPERATURE.search(text):
            raise ValueError("a rule's temperature has no effect here; set that of the request")
        return LLMatcher.grammar_from_lark(text)
    # As one terminal: of alternatives in a rule only so many may begin alike.
    return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {' | '.join(_choices(text))}")


def _choices(text: str) -> list[str]:
    choices = json.loads(text)
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
        raise ValueError("a choice must be a JSON list of texts, none of them empty")
    # Lark's strings are JSON's.
    return [json.dumps(choice, ensure_ascii=False) for choice in choices]

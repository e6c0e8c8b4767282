"""The share of generated Python functions that parse.

A prompt is the header of a function of a held-out document, ``def name(...):`` and the line end; the
generator writes the body, its indentation included. (The indentation is not given away: most tokenizers
join it with the first word, so a prompt that ends inside it would be a place no training text has.)
The body ends before the first line that is not blank and begins at column 0. Where no such line comes,
because the limit of tokens cut the text off, the body ends with its last complete line; that is the same
for every generator. Header and body together must be accepted by :func:`ast.parse`; an empty body is a
failure.
"""

from __future__ import annotations

import ast
import hashlib
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence

from weft.core.errors import DataError

LONGEST_HEADER = 300
"""Characters; longer headers are left out."""

UNTIL = ("\ndef ", "\nclass ", "\n@", "\nasync ", "\nif ", "\nfor ", "\nimport ", "\nfrom ")
"""Texts after which no body goes on: a generator may stop there to save time."""


def function_headers(documents: Iterable[str], count: int) -> list[str]:
    """Up to ``count`` different headers, each with its line end, the same for the same documents.

    Methods are moved to the left margin; decorators are left off. Documents that are no Python are
    passed over. Which headers are taken follows from their hashes, not from the documents' order.
    """
    found = {header for text in documents for header in _headers(text)}
    return sorted(found, key=lambda header: hashlib.sha256(header.encode("utf-8")).digest())[:count]


def body(completion: str) -> str:
    """The part of ``completion`` that belongs to the function, whole lines only."""
    lines = completion.splitlines(keepends=True)
    for index, line in enumerate(lines):
        if line.strip() and not line[0].isspace():
            return "".join(lines[:index])
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return "".join(lines)


def parses(header: str, completion: str) -> bool:
    """Whether ``header`` with the body in ``completion`` is a Python function with a body."""
    return _parse(header + body(completion)) is not None


def parse_share(headers: Sequence[str], completions: Sequence[str]) -> tuple[int, int]:
    """(functions that parse, functions); DataError unless every header has a completion."""
    if len(headers) != len(completions):
        raise DataError(f"{len(headers)} function headers got {len(completions)} completions.")
    pairs = zip(headers, completions, strict=True)
    return sum(parses(header, completion) for header, completion in pairs), len(headers)


def _headers(text: str) -> Iterator[str]:
    tree = _parse(text)
    if tree is None:
        return
    # Split as the parser counts lines: str.splitlines also splits at form feeds and the like.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = node.body[0].lineno
        if first == node.lineno:
            continue
        own = lines[node.lineno - 1 : first - 1]
        while own[-1].lstrip().startswith("#") or not own[-1].strip():
            own.pop()
        header = textwrap.dedent("\n".join(own)).rstrip() + "\n"
        if len(header) <= LONGEST_HEADER and header.endswith(":\n") and _parse(header + "    pass\n"):
            yield header


def _parse(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None

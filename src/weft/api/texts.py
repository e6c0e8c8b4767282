"""One text or several: what every call of a loaded model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.core.errors import UsageError


def check(texts: Sequence[str]) -> None:
    """UsageError for what is no text, and for empty ones."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"Input {number} is {type(text).__name__}; give texts.")
        if not text.strip():
            raise UsageError(f"Text {number} is empty; leave it out.")


def each(text: str | Sequence[str], answer: Any) -> Any:
    """``answer`` of several texts, for several or for one alone."""
    texts = [text] if isinstance(text, str) else list(text)
    check(texts)
    found = answer(texts) if texts else []
    return found[0] if isinstance(text, str) else found


def at_least_one(**settings: int | None) -> None:
    """UsageError for a setting below 1."""
    for name, value in settings.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} = {value} must be at least 1.")

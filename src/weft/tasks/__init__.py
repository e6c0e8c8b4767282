"""Tasks: how an input becomes what a model reads, and what that says becomes an answer."""

from weft.tasks.card import FILE, Card, read_card, write_card
from weft.tasks.results import Scored, Span

__all__ = ["FILE", "Card", "Scored", "Span", "read_card", "write_card"]

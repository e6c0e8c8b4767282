"""How the parameters of a decoder can be cut over ranks that compute one layer together, as data."""

from __future__ import annotations

import re
from typing import Literal

Cut = Literal["columns", "rows", "vocabulary", "copied"]
"""``columns``: output features (or heads) are cut, dimension 0; ``rows``: input features, dimension 1;
``vocabulary``: tokens, dimension 0; ``copied``: every rank holds it whole."""

DECODER: dict[str, Cut] = {
    "embedding.weight": "vocabulary",
    "norm.weight": "copied",
    "output.weight": "vocabulary",
    "blocks.{}.attention_norm.weight": "copied",
    "blocks.{}.attention.q.weight": "columns",
    "blocks.{}.attention.q.bias": "columns",
    "blocks.{}.attention.k.weight": "columns",
    "blocks.{}.attention.k.bias": "columns",
    "blocks.{}.attention.v.weight": "columns",
    "blocks.{}.attention.v.bias": "columns",
    "blocks.{}.attention.o.weight": "rows",
    "blocks.{}.attention.o.bias": "copied",
    "blocks.{}.attention.q_norm.weight": "copied",
    "blocks.{}.attention.k_norm.weight": "copied",
    "blocks.{}.feed_forward_norm.weight": "copied",
    "blocks.{}.feed_forward.gate.weight": "columns",
    "blocks.{}.feed_forward.up.weight": "columns",
    "blocks.{}.feed_forward.down.weight": "rows",
}
"""``{}`` stands for the number of the layer."""


def cut(name: str) -> Cut:
    """How the parameter ``name`` is cut; what is not listed (experts, a router) is copied."""
    return DECODER.get(re.sub(r"\d+", "{}", name, count=1), "copied")

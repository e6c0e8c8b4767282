"""How the parameters of a decoder are called in Hugging Face checkpoints, as data."""

from __future__ import annotations

import re

from weft.models.config import DecoderConfig

DECODER: dict[str, str] = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blocks.{}.attention_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blocks.{}.attention.q.weight": "model.layers.{}.self_attn.q_proj.weight",
    "blocks.{}.attention.q.bias": "model.layers.{}.self_attn.q_proj.bias",
    "blocks.{}.attention.k.weight": "model.layers.{}.self_attn.k_proj.weight",
    "blocks.{}.attention.k.bias": "model.layers.{}.self_attn.k_proj.bias",
    "blocks.{}.attention.v.weight": "model.layers.{}.self_attn.v_proj.weight",
    "blocks.{}.attention.v.bias": "model.layers.{}.self_attn.v_proj.bias",
    "blocks.{}.attention.o.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blocks.{}.attention.o.bias": "model.layers.{}.self_attn.o_proj.bias",
    "blocks.{}.attention.q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blocks.{}.attention.k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
    "blocks.{}.feed_forward_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.{}.feed_forward.gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blocks.{}.feed_forward.up.weight": "model.layers.{}.mlp.up_proj.weight",
    "blocks.{}.feed_forward.down.weight": "model.layers.{}.mlp.down_proj.weight",
}
"""Ours to theirs; ``{}`` stands for the number of the layer."""


def foreign(name: str) -> str:
    """Hugging Face's name of the decoder's parameter ``name``."""
    layer = re.search(r"\d+", name)
    if layer is None:
        return DECODER[name]
    return DECODER[name.replace(layer.group(), "{}", 1)].format(layer.group())


def whole_name(name: str, config: DecoderConfig) -> str:
    """The name that a part of the decoder gives a parameter, as the whole decoder calls it.

    A pipeline stage that has the output matrix of tied embeddings, and not the embedding, calls its copy
    by that.
    """
    if config.tie_word_embeddings and name == "output.weight":
        return "embedding.weight"
    return name

"""How parameters are called in Hugging Face checkpoints, as data."""

from __future__ import annotations

import re

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
    "blocks.{}.feed_forward.router.weight": "model.layers.{}.mlp.gate.weight",
}
"""Ours to theirs; ``{}`` stands for the number of the layer."""

EXPERTS: dict[str, str] = {
    "blocks.{}.feed_forward.experts.gate": "model.layers.{}.mlp.experts.{}.gate_proj.weight",
    "blocks.{}.feed_forward.experts.up": "model.layers.{}.mlp.experts.{}.up_proj.weight",
    "blocks.{}.feed_forward.experts.down": "model.layers.{}.mlp.experts.{}.down_proj.weight",
}
"""Ours, one tensor for all experts, to theirs, one for each; the second ``{}`` is the expert's number."""


ENCODER: dict[str, str] = {
    "embedding.weight": "model.embeddings.tok_embeddings.weight",
    "embedding_norm": "model.embeddings.norm",
    "norm": "model.final_norm",
    "head.dense": "head.dense",
    "head.norm": "head.norm",
    "output": "decoder",
    "classifier": "classifier",
    "crf": "crf",
    "blocks.{}.attention_norm": "model.layers.{}.attn_norm",
    "blocks.{}.attention.qkv": "model.layers.{}.attn.Wqkv",
    "blocks.{}.attention.o": "model.layers.{}.attn.Wo",
    "blocks.{}.feed_forward_norm": "model.layers.{}.mlp_norm",
    "blocks.{}.feed_forward.gate_up": "model.layers.{}.mlp.Wi",
    "blocks.{}.feed_forward.down": "model.layers.{}.mlp.Wo",
}
"""Modules of ModernBERT; a parameter's own name (weight, bias) is the same in both. The stock model has no
CRF: other programs leave its tensors out, and see the same scores of each token."""

ENCODER_DECODER: dict[str, str] = {
    "embedding.weight": "shared.weight",
    "output": "lm_head",
    "encoder.relative": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "decoder.relative": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "encoder.norm": "encoder.final_layer_norm",
    "decoder.norm": "decoder.final_layer_norm",
    **{
        f"{stack}.blocks.{{}}.{ours}": f"{stack}.block.{{}}.layer.{theirs}"
        for stack, last in (("encoder", 1), ("decoder", 2))
        for ours, theirs in (
            ("attention_norm", "0.layer_norm"),
            *((f"attention.{letter}", f"0.SelfAttention.{letter}") for letter in "qkvo"),
            ("cross_norm", "1.layer_norm"),
            *((f"cross.{letter}", f"1.EncDecAttention.{letter}") for letter in "qkvo"),
            ("feed_forward_norm", f"{last}.layer_norm"),
            ("feed_forward.gate", f"{last}.DenseReluDense.wi_0"),
            ("feed_forward.up", f"{last}.DenseReluDense.wi_1"),
            ("feed_forward.down", f"{last}.DenseReluDense.wo"),
        )
    },
}
"""Modules of T5."""


def translated(table: dict[str, str], name: str) -> str:
    """The parameter ``name`` as ``table`` of modules calls it."""
    if name in table:
        return table[name]
    module, _, leaf = name.rpartition(".")
    pattern, layer = _pattern(module)
    return f"{table[pattern].format(layer)}.{leaf}"


def foreign(name: str) -> str:
    """Hugging Face's name of the decoder's parameter ``name``, which is not one of experts."""
    pattern, layer = _pattern(name)
    return DECODER[pattern].format(layer)


def foreign_parts(name: str, experts: int) -> tuple[str, ...]:
    """Hugging Face's names of the tensors that make up ``name``: of each expert along dimension 0, or one."""
    pattern, layer = _pattern(name)
    if pattern not in EXPERTS:
        return (foreign(name),)
    return tuple(EXPERTS[pattern].format(layer, expert) for expert in range(experts))


def stacked(name: str) -> bool:
    """Whether the decoder's parameter ``name`` holds the matrices of all experts along dimension 0."""
    return _pattern(name)[0] in EXPERTS


def _pattern(name: str) -> tuple[str, str]:
    layer = re.search(r"\d+", name)
    return (name, "") if layer is None else (name.replace(layer.group(), "{}", 1), layer.group())


def whole_name(name: str, *, tied: bool) -> str:
    """The name that a part of the decoder gives a parameter, as the whole decoder calls it.

    A pipeline stage that has the output matrix of tied embeddings, and not the embedding, calls its copy
    by that.
    """
    if tied and name == "output.weight":
        return "embedding.weight"
    return name

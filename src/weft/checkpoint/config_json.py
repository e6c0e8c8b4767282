"""config.json of Hugging Face folders to DecoderConfig and back.

Both spellings are read: ``rope_theta``, ``rope_scaling`` and ``torch_dtype`` (transformers 4), and
``rope_parameters``, ``layer_types`` and ``dtype`` (transformers 5). The first is written, which both read.
Defaults for absent keys are those of the ``transformers`` configuration classes.
"""

from __future__ import annotations

from typing import Any

from weft.checkpoint.fields import TOKEN_IDS, Table, flag, integer, number
from weft.core.errors import CheckpointError
from weft.models.config import DecoderConfig, RopeScaling
from weft.models.families import FAMILIES, Family

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_EXPERT_SIZES = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step")


def parse(table: Table, architecture: str) -> DecoderConfig:
    """A parsed config.json as a DecoderConfig; CheckpointError or UsageError say what does not fit."""
    family = FAMILIES[architecture]
    _refuse_foreign_parts(table)
    sizes: dict[str, Any] = {name: integer(table, name) for name in _SIZES}
    heads = sizes["num_attention_heads"]
    # Llama's first release has no such key; the other families do not agree on a default.
    groups = heads if architecture == "LlamaForCausalLM" else None
    size = 128 if architecture == "Qwen3ForCausalLM" else sizes["hidden_size"] // max(heads, 1)
    return DecoderConfig(
        **sizes,
        architecture=architecture,
        num_key_value_heads=integer(table, "num_key_value_heads", groups),
        head_dim=integer(table, "head_dim", size),
        max_position_embeddings=integer(table, "max_position_embeddings"),
        rope_theta=number(_rope(table), "rope_theta", number(table, "rope_theta", 10000.0)),
        rope_scaling=_rope_scaling(table),
        rms_norm_eps=number(table, "rms_norm_eps", 1e-6),
        initializer_range=number(table, "initializer_range", 0.02),
        tie_word_embeddings=flag(table, "tie_word_embeddings"),
        qk_norm=family.qk_norm,
        attention_bias=flag(table, "attention_bias")
        if family.attention_bias is None
        else family.attention_bias,
        sliding_window=_sliding_window(table, family, sizes["num_hidden_layers"]),
        **(_experts(table) if family.experts else {}),
    )


def write_config(config: DecoderConfig, dtype: str, token_ids: Table) -> dict[str, Any]:
    """The content of a config.json; ``dtype`` as in ``"bfloat16"``, ``token_ids`` maps TOKEN_IDS to ids."""
    family = FAMILIES[config.architecture]
    window = config.sliding_window
    table: dict[str, Any] = {
        "architectures": [config.architecture],
        "model_type": family.model_type,
        **{name: getattr(config, name) for name in _SIZES},
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_table(config.rope_scaling),
        "rms_norm_eps": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": dtype,
        **{name: token_ids.get(name) for name in TOKEN_IDS},
    }
    if family.attention_bias is None:
        table["attention_bias"] = config.attention_bias
    if config.architecture == "LlamaForCausalLM":
        table["mlp_bias"] = False
    if family.experts:
        table |= {name: getattr(config, name) for name in (*_EXPERT_SIZES, "norm_topk_prob")}
        table["mlp_only_layers"] = list(config.mlp_only_layers)
    if family.sliding_window:
        table["sliding_window"] = window
    if family.model_type in ("qwen2", "qwen3", "qwen3_moe"):
        table["use_sliding_window"] = window is not None
    if family.model_type in ("qwen2", "qwen3"):
        table["max_window_layers"] = config.num_hidden_layers if window is None else 0
    return table


def _refuse_foreign_parts(table: Table) -> None:
    """Everything of the families that changes the numbers and that the decoder does not have."""
    if flag(table, "mlp_bias"):
        raise CheckpointError(
            "mlp_bias = true puts biases on the feed-forward matrices, which is not supported."
        )
    if table.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"hidden_act = {table['hidden_act']!r} is not supported; only silu is.")
    if table.get("quantization_config"):
        raise CheckpointError(
            "its weights are quantised (quantization_config); use the unquantised checkpoint."
        )
    for source in (table, _rope(table)):
        if number(source, "partial_rotary_factor", 1.0) != 1.0:
            raise CheckpointError(
                "partial_rotary_factor rotates part of each head only, which is not supported."
            )


def _rope(table: Table) -> Table:
    """The rotary parameters, whichever key holds them."""
    rope = table.get("rope_scaling") or table.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"its rotary parameters must be a table, not {rope!r}.")
    if any(isinstance(value, dict) for value in rope.values()):
        raise CheckpointError("rope_parameters differ between kinds of layers, which is not supported.")
    return rope


def _rope_scaling(table: Table) -> RopeScaling | None:
    rope = _rope(table)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(factor=number(rope, "factor"), rope_type="linear")
    if kind != "llama3":
        raise CheckpointError(f"RoPE scaling of type {kind!r} is not supported; llama3 and linear are.")
    context = integer(rope, "original_max_position_embeddings", integer(table, "max_position_embeddings"))
    return RopeScaling(
        factor=number(rope, "factor"),
        low_freq_factor=number(rope, "low_freq_factor"),
        high_freq_factor=number(rope, "high_freq_factor"),
        original_max_position_embeddings=integer(table, "original_max_position_embeddings", context),
    )


def _scaling_table(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.rope_type == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
    }


def _sliding_window(table: Table, family: Family, layers: int) -> int | None:
    """The one window of all layers; a mixture of windowed and full layers is refused."""
    qwen = family.model_type in ("qwen2", "qwen3")
    # transformers windows every Mistral that does not say null, and only those Qwens that ask for it; of
    # these the mixtures of experts know no layers that are exempt.
    asks = qwen or family.model_type == "qwen3_moe"
    asked = flag(table, "use_sliding_window") if asks else family.sliding_window
    windowed = asked and table.get("sliding_window", 4096) is not None
    kinds = {"sliding_attention"} if windowed else {"full_attention"}
    types = table.get("layer_types")
    if types is not None and not (isinstance(types, list) and all(isinstance(kind, str) for kind in types)):
        raise CheckpointError(f"layer_types = {types!r} must be a list of names.")
    if windowed and qwen:
        full = min(integer(table, "max_window_layers", 28), layers)
        own = ["full_attention"] * full + ["sliding_attention"] * (layers - full)
        kinds = set(own if types is None else types)
    elif types:
        kinds |= set(types)
    if len(kinds) > 1:
        raise CheckpointError(
            f"it mixes layers of {' and '.join(sorted(kinds))}, which is not supported (sliding_window, "
            "max_window_layers, layer_types)."
        )
    return integer(table, "sliding_window", 4096) if kinds == {"sliding_attention"} else None


def _experts(table: Table) -> dict[str, Any]:
    """The mixture of experts; transformers 5 calls the number of experts num_local_experts."""
    layers = table.get("mlp_only_layers") or []
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise CheckpointError(f"mlp_only_layers = {layers!r} must be a list of whole numbers.")
    return {
        "num_experts": integer(table, "num_experts", integer(table, "num_local_experts", 128)),
        "num_experts_per_tok": integer(table, "num_experts_per_tok", 8),
        "moe_intermediate_size": integer(table, "moe_intermediate_size", 768),
        "decoder_sparse_step": integer(table, "decoder_sparse_step", 1),
        "norm_topk_prob": flag(table, "norm_topk_prob"),
        "mlp_only_layers": tuple(layers),
    }

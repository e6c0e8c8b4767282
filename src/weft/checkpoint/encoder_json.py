"""config.json of ModernBERT to EncoderConfig and back.

Both spellings of the layers are read: ``global_attn_every_n_layers`` and the two rope bases (transformers 4),
and ``layer_types`` and ``rope_parameters`` (transformers 5). The first is written, which both read.
"""

from __future__ import annotations

from typing import Any

from weft.checkpoint.fields import TOKEN_IDS, Table, flag, integer, number
from weft.core.errors import CheckpointError
from weft.models.encoder_config import EncoderConfig

MODEL_TYPE = "modernbert"

_SIZES = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "max_position_embeddings": 8192,
    "local_attention": 128,
}
_ROPE = {
    "global_rope_theta": ("full_attention", 160000.0),
    "local_rope_theta": ("sliding_attention", 10000.0),
}
_DROPOUTS = ("embedding_dropout", "mlp_dropout", "attention_dropout", "classifier_dropout")


def parse(table: Table, architecture: str) -> EncoderConfig:
    """A parsed config.json as an EncoderConfig; CheckpointError or UsageError say what does not fit."""
    for name in ("hidden_activation", "classifier_activation"):
        if table.get(name, "gelu") != "gelu":
            raise CheckpointError(f"{name} = {table[name]!r} is not supported; only gelu is.")
    pooling = table.get("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise CheckpointError(f"classifier_pooling = {pooling!r} must be cls or mean.")
    bias = table.get("decoder_bias")
    sizes: dict[str, Any] = {name: integer(table, name, default) for name, default in _SIZES.items()}
    return EncoderConfig(
        **sizes,
        architecture=architecture,
        global_attn_every_n_layers=_every(table, sizes["num_hidden_layers"]),
        global_rope_theta=_theta(table, "global_rope_theta"),
        local_rope_theta=_theta(table, "local_rope_theta"),
        norm_eps=number(table, "norm_eps", 1e-5),
        initializer_range=number(table, "initializer_range", 0.02),
        attention_bias=flag(table, "attention_bias"),
        mlp_bias=flag(table, "mlp_bias"),
        norm_bias=flag(table, "norm_bias"),
        decoder_bias=True if bias is None else flag(table, "decoder_bias"),
        classifier_bias=flag(table, "classifier_bias"),
        classifier_pooling=pooling,
        problem_type=table.get("problem_type"),
        labels=() if architecture == "ModernBertForMaskedLM" else labels(table),
        crf=flag(table, "crf"),
        dropout=max(number(table, name, 0.0) for name in _DROPOUTS),
    )


def write(config: EncoderConfig, dtype: str, token_ids: Table) -> dict[str, Any]:
    """The content of a config.json; ``dtype`` as in ``"bfloat16"``, ``token_ids`` maps TOKEN_IDS to ids."""
    fields = (
        *_SIZES,
        *("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "norm_eps"),
        *("initializer_range", "attention_bias", "mlp_bias", "norm_bias", "decoder_bias", "classifier_bias"),
        "classifier_pooling",
    )
    ids = {name: token_ids.get(name) for name in TOKEN_IDS}
    table: dict[str, Any] = {
        "architectures": [config.architecture],
        "model_type": MODEL_TYPE,
        **{name: getattr(config, name) for name in fields},
        **{name: config.dropout for name in _DROPOUTS if name != "attention_dropout"},
        "attention_dropout": 0.0,
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "tie_word_embeddings": True,
        "cls_token_id": ids["bos_token_id"],
        "sep_token_id": ids["eos_token_id"],
        "torch_dtype": dtype,
        **ids,
    }
    if config.labels:
        table["id2label"] = {str(number): label for number, label in enumerate(config.labels)}
        table["label2id"] = {label: number for number, label in enumerate(config.labels)}
    if config.crf:
        table["crf"] = True
    if config.problem_type is not None:
        table["problem_type"] = config.problem_type
    return table


def labels(table: Table) -> tuple[str, ...]:
    """The names of the classes by their numbers; LABEL_0 and so on where a checkpoint gives none."""
    named = table.get("id2label")
    if named is None:
        count = integer(table, "num_labels", 2)
        return tuple(f"LABEL_{number}" for number in range(count))
    if not isinstance(named, dict) or sorted(named) != sorted(map(str, range(len(named)))):
        raise CheckpointError("id2label must name the classes from 0 on.")
    return tuple(str(named[str(number)]) for number in range(len(named)))


def _theta(table: Table, name: str) -> float:
    kind, default = _ROPE[name]
    rope = table.get("rope_parameters")
    if rope is None:
        return number(table, name, default)
    inner = rope.get(kind) if isinstance(rope, dict) else None
    if not isinstance(inner, dict) or inner.get("rope_type", "default") != "default":
        raise CheckpointError(
            f"rope_parameters of {kind} are not supported; only plain rotary positions are."
        )
    return number(inner, "rope_theta", default)


def _every(table: Table, layers: int) -> int:
    types = table.get("layer_types")
    if types is None:
        return integer(table, "global_attn_every_n_layers", 3)
    whole = [layer for layer, kind in enumerate(types) if kind == "full_attention"]
    every = whole[1] - whole[0] if len(whole) > 1 else layers
    expected = ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]
    if types != expected:
        raise CheckpointError(
            "layer_types are not global at equal distances from layer 0 on, as is supported."
        )
    return every

"""config.json of T5 v1.1 to EncoderDecoderConfig and back."""

from __future__ import annotations

from typing import Any

from weft.checkpoint.fields import TOKEN_IDS, Table, integer, number
from weft.core.errors import CheckpointError
from weft.models.encdec_config import EncoderDecoderConfig

MODEL_TYPE = "t5"

_SIZES = {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
_BUCKETS = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}


def parse(table: Table, architecture: str) -> EncoderDecoderConfig:
    """A parsed config.json as a configuration; CheckpointError or UsageError say what does not fit."""
    shape = table.get("feed_forward_proj", "relu")
    if shape != "gated-gelu":
        raise CheckpointError(
            f"feed_forward_proj = {shape!r} is not supported; gated-gelu is (T5 v1.1, Flan-T5, mT5's shape)."
        )
    sizes: dict[str, Any] = {name: integer(table, name, default) for name, default in _SIZES.items()}
    return EncoderDecoderConfig(
        **sizes,
        architecture=architecture,
        num_decoder_layers=integer(table, "num_decoder_layers", sizes["num_layers"]),
        **{name: integer(table, name, default) for name, default in _BUCKETS.items()},
        layer_norm_epsilon=number(table, "layer_norm_epsilon", 1e-6),
        initializer_factor=number(table, "initializer_factor", 1.0),
        # transformers 5 writes true always, and says apart whether the output is scaled as a tied one.
        tie_word_embeddings=table.get("scale_decoder_outputs", table.get("tie_word_embeddings")) is not False,
        dropout_rate=number(table, "dropout_rate", 0.1),
    )


def write(config: EncoderDecoderConfig, dtype: str, token_ids: Table) -> dict[str, Any]:
    """The content of a config.json; ``dtype`` as in ``"bfloat16"``, ``token_ids`` maps TOKEN_IDS to ids."""
    fields = (
        *_SIZES,
        *_BUCKETS,
        "num_decoder_layers",
        "layer_norm_epsilon",
        "initializer_factor",
        "dropout_rate",
    )
    ids = {name: token_ids.get(name) for name in TOKEN_IDS}
    return {
        "architectures": [config.architecture],
        "model_type": MODEL_TYPE,
        **{name: getattr(config, name) for name in fields},
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": config.tie_word_embeddings,
        "is_encoder_decoder": True,
        "use_cache": True,
        "torch_dtype": dtype,
        **ids,
        "decoder_start_token_id": token_ids.get("decoder_start_token_id", ids["pad_token_id"]),
    }

"""config.json of recurrent networks and CNNs to BaselineConfig and back.

These are no stock architectures: the file looks like any other, and only Weft reads it.
"""

from __future__ import annotations

from typing import Any

from weft.checkpoint.encoder_json import labels
from weft.checkpoint.fields import TOKEN_IDS, Table, flag, integer, number
from weft.core.errors import CheckpointError
from weft.models.baseline_config import BASELINES, BaselineConfig

MODEL_TYPES = {"lstm": "weft_recurrent", "gru": "weft_recurrent", "cnn": "weft_cnn"}

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")


def parse(table: Table, architecture: str) -> BaselineConfig:
    """A parsed config.json as a BaselineConfig; CheckpointError or UsageError say what does not fit."""
    expected = MODEL_TYPES[BASELINES[architecture][0]]
    if table.get("model_type") != expected:
        raise CheckpointError(
            f"model_type = {table.get('model_type')!r} is not that of a {architecture}, {expected}."
        )
    sizes: dict[str, Any] = {name: integer(table, name) for name in _SIZES}
    return BaselineConfig(
        **sizes,
        architecture=architecture,
        labels=() if BASELINES[architecture][1] == "masked" else labels(table),
        kernel_sizes=_kernel_sizes(table),
        bigram_buckets=integer(table, "bigram_buckets", 0),
        bigram_size=integer(table, "bigram_size", BaselineConfig.bigram_size),
        classifier_pooling=table.get("classifier_pooling", "max"),
        sep_token_id=integer(table, "sep_token_id") if BASELINES[architecture][1] == "span" else None,
        predicate_markers=_markers(table),
        initializer_range=number(table, "initializer_range", BaselineConfig.initializer_range),
        dropout=number(table, "dropout", 0.0),
        crf=flag(table, "crf"),
    )


def write(config: BaselineConfig, dtype: str, token_ids: Table) -> dict[str, Any]:
    """The content of a config.json; ``dtype`` as in ``"bfloat16"``, ``token_ids`` maps TOKEN_IDS to ids."""
    table: dict[str, Any] = {
        "architectures": [config.architecture],
        "model_type": MODEL_TYPES[config.body],
        **{name: getattr(config, name) for name in _SIZES},
        "classifier_pooling": config.classifier_pooling,
        "initializer_range": config.initializer_range,
        "dropout": config.dropout,
        "crf": config.crf,
        "torch_dtype": dtype,
        **{name: token_ids.get(name) for name in TOKEN_IDS},
        "id2label": {str(number): label for number, label in enumerate(config.labels)},
        "label2id": {label: number for number, label in enumerate(config.labels)},
    }
    if config.bigram_buckets:
        table |= {"bigram_buckets": config.bigram_buckets, "bigram_size": config.bigram_size}
    if config.sep_token_id is not None:
        table["sep_token_id"] = config.sep_token_id
    if config.predicate_markers is not None:
        table["predicate_markers"] = list(config.predicate_markers)
    if config.kernel_sizes:
        table["kernel_sizes"] = list(config.kernel_sizes)
    return table


def _kernel_sizes(table: Table) -> tuple[int, ...]:
    return _whole_numbers(table, "kernel_sizes")


def _markers(table: Table) -> tuple[int, int] | None:
    found = _whole_numbers(table, "predicate_markers")
    if not found:
        return None
    if len(found) != 2:
        raise CheckpointError(f"predicate_markers = {list(found)} must be two tokens.")
    return found[0], found[1]


def _whole_numbers(table: Table, name: str) -> tuple[int, ...]:
    found = table.get(name, [])
    whole = isinstance(found, list) and all(
        isinstance(value, int) and not isinstance(value, bool) for value in found
    )
    if not whole:
        raise CheckpointError(f"{name} = {found!r} must be a list of whole numbers.")
    return tuple(found)

"""The kinds of models that a Hugging Face folder may hold: how each is described, built and named there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weft.checkpoint import baseline_json, config_json, encdec_json, encoder_json
from weft.checkpoint.fields import Table
from weft.checkpoint.safe_folder import CONFIG, read_json
from weft.checkpoint.spread import Box, whole
from weft.core.errors import CheckpointError, UsageError
from weft.core.registry import lookup
from weft.models.baseline import Baseline
from weft.models.baseline_config import BASELINES, BaselineConfig
from weft.models.config import DecoderConfig
from weft.models.convolution import Convolutional
from weft.models.decoder import Decoder
from weft.models.encdec import EncoderDecoder
from weft.models.encdec_config import ENCODER_DECODERS, EncoderDecoderConfig
from weft.models.encoder import Encoder
from weft.models.encoder_config import ENCODERS, EncoderConfig
from weft.models.families import FAMILIES
from weft.models.names import ENCODER, ENCODER_DECODER, foreign, foreign_parts, stacked, translated
from weft.models.reader import SpanReader
from weft.models.recurrent import Recurrent

Config = DecoderConfig | EncoderConfig | EncoderDecoderConfig | BaselineConfig
Model = Decoder | Encoder | EncoderDecoder | Baseline


@dataclass(frozen=True)
class Kind:
    """One class of models. ``copies``: tensors that a file may hold again, equal to the embedding."""

    build: Callable[[Any], Model]
    parse: Callable[[Table, str], Config]
    write: Callable[[Any, str, Table], dict[str, Any]]
    parts: Callable[[Any, str, torch.Size], Iterator[tuple[str, Box]]]
    embedding: str
    output: str
    copies: tuple[str, ...] = ()


def _decoder_parts(config: DecoderConfig, name: str, shape: torch.Size) -> Iterator[tuple[str, Box]]:
    full = whole(tuple(shape))
    if not stacked(name):
        yield foreign(name), full
        return
    for expert, stored in enumerate(foreign_parts(name, config.num_experts)):
        yield stored, ((expert, 1), *full[1:])


def _table_parts(table: dict[str, str]) -> Callable[[Any, str, torch.Size], Iterator[tuple[str, Box]]]:
    def parts(config: Config, name: str, shape: torch.Size) -> Iterator[tuple[str, Box]]:
        yield translated(table, name), whole(tuple(shape))

    return parts


def _own_parts(config: BaselineConfig, name: str, shape: torch.Size) -> Iterator[tuple[str, Box]]:
    yield name, whole(tuple(shape))


def _baseline(config: BaselineConfig) -> Baseline:
    if config.head == "span":
        return SpanReader(config)
    return Convolutional(config) if config.body == "cnn" else Recurrent(config)


DECODER_KIND = Kind(
    Decoder,
    config_json.parse,
    config_json.write_config,
    _decoder_parts,
    "model.embed_tokens.weight",
    "lm_head.weight",
)
ENCODER_KIND = Kind(
    Encoder,
    encoder_json.parse,
    encoder_json.write,
    _table_parts(ENCODER),
    "model.embeddings.tok_embeddings.weight",
    "decoder.weight",
)
ENCDEC_KIND = Kind(
    EncoderDecoder,
    encdec_json.parse,
    encdec_json.write,
    _table_parts(ENCODER_DECODER),
    "shared.weight",
    "lm_head.weight",
    ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
)
BASELINE_KIND = Kind(
    _baseline,
    baseline_json.parse,
    baseline_json.write,
    _own_parts,
    "embedding.weight",
    "output.weight",
)

KINDS: dict[str, Kind] = {
    **dict.fromkeys(FAMILIES, DECODER_KIND),
    **dict.fromkeys(ENCODERS, ENCODER_KIND),
    **dict.fromkeys(ENCODER_DECODERS, ENCDEC_KIND),
    **dict.fromkeys(BASELINES, BASELINE_KIND),
}
"""By the name that a config.json gives under ``architectures``."""

_TYPES = {
    **{family.model_type: name for name, family in FAMILIES.items()},
    encoder_json.MODEL_TYPE: "ModernBertForMaskedLM",
    encdec_json.MODEL_TYPE: "T5ForConditionalGeneration",
}


def read_config(folder: Path) -> Config:
    """The shape of the model in ``folder``; CheckpointError for what Weft cannot compute exactly."""
    table = read_json(folder, CONFIG)
    try:
        architecture = _architecture(table)
        return KINDS[architecture].parse(table, architecture)
    except (UsageError, CheckpointError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be used: {error}") from error


def read_decoder_config(folder: Path) -> DecoderConfig:
    """As :func:`read_config`, for a decoder; CheckpointError when the folder holds another kind of model."""
    config = read_config(folder)
    if not isinstance(config, DecoderConfig):
        raise CheckpointError(
            f"{folder} holds a {config.architecture}, which does not continue text; give a decoder here."
        )
    return config


def _architecture(table: Table) -> str:
    named = table.get("architectures")
    if isinstance(named, list) and named:
        lookup(KINDS, str(named[0]), "architecture that Weft reads")
        return str(named[0])
    return lookup(_TYPES, str(table.get("model_type")), "model type that Weft reads")

"""The model of a run: its shape, from the run file or a checkpoint, and its first weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from weft.checkpoint.huggingface import load_any, load_model
from weft.checkpoint.kinds import KINDS, Config, read_config
from weft.checkpoint.opened import open_decoder
from weft.checkpoint.safe_folder import resolve
from weft.core.errors import ConfigError
from weft.data.labels import LabelLoader
from weft.models import Decoder, DecoderConfig
from weft.models.baseline import Baseline
from weft.models.baseline_config import BASELINES, KERNEL_SIZES, BaselineConfig
from weft.models.encdec import EncoderDecoder
from weft.models.encdec_config import EncoderDecoderConfig
from weft.models.encoder import Encoder
from weft.models.encoder_config import EncoderConfig
from weft.models.presets import feed_forward
from weft.models.reader import SpanReader
from weft.train import dial
from weft.train.config import ModelSection, TrainRun
from weft.train.rows import TrainingRows
from weft.train.transfer import rescale

Network = Decoder | Encoder | EncoderDecoder | Baseline

ARCHITECTURES = {
    "masked": "ModernBertForMaskedLM",
    "contrastive": "ModernBertForMaskedLM",
    "classify": "ModernBertForSequenceClassification",
    "tag": "ModernBertForTokenClassification",
    "extractive": "ModernBertForTokenClassification",
    "span": "ModernBertForQuestionAnswering",
    "pairs": "T5ForConditionalGeneration",
    "corrupt": "T5ForConditionalGeneration",
}
"""What an objective trains where it is no decoder."""

HEADS = {"masked": "masked", "classify": "sequence", "tag": "token", "extractive": "token", "span": "span"}
"""Objectives that train baselines too, and what these need on top."""

WIDTH, LAYERS, HEAD = 256, 4, 64
"""Of a fresh encoder, or of each half of an encoder-decoder, for which the run file gives nothing."""

BASELINE_LAYERS, TOKEN_CNN_LAYERS = 1, 3
"""Of a fresh baseline. A convolution sees two tokens to each side, which is little to label a token by."""

_NOT_OF_BASELINES = (
    *("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_decoder_layers"),
    *("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
)


def choices(run: TrainRun, loader: TrainingRows) -> list[Config]:
    """The shapes that a budget may choose from; one where the run file or a checkpoint says it."""
    if run.objective.name in ARCHITECTURES:
        return [shape(run, loader)]
    if run.model.start is not None:
        return [open_decoder(run.model.start)[1].config]
    return list(dial.sizes(run, loader.vocab_size))


def shape(run: TrainRun, loader: TrainingRows) -> Config:
    """The shape of a run whose sizes are settled. ConfigError for one that its objective cannot train."""
    section, name = run.model, run.objective.name
    if name not in ARCHITECTURES:
        fixed = dial.fixed_size(section, loader.vocab_size, run.data.sequence_length)
        if fixed is None:
            raise ConfigError(
                "model.hidden_size is not set; give it, or give a budget from which it follows."
            )
        return fixed
    needed = _needed(section, name)
    if (section.bigram_buckets or section.predicate) and needed not in BASELINES:
        key = "bigram_buckets" if section.bigram_buckets else "predicate"
        raise ConfigError(f"model.{key} is of recurrent networks and CNNs, not of a {needed}; leave it out.")
    if section.start is not None:
        return _from_start(run, needed, loader)
    if needed == "T5ForConditionalGeneration":
        return _encoder_decoder(section, loader.vocab_size)
    if needed in BASELINES:
        return _baseline(run, needed, loader)
    return _encoder(run, needed, loader)


def fresh_model(run: TrainRun, loader: TrainingRows, device: torch.device) -> Network:
    """The model that a run begins with: drawn from its seed, or the checkpoint it starts from.

    A head that the checkpoint does not have is drawn.
    """
    if run.model.start is not None and run.objective.name not in ARCHITECTURES:
        return load_model(run.model.start, torch.float32, device)
    wanted = shape(run, loader)
    with torch.device(device):
        model = KINDS[wanted.architecture].build(wanted)
    # Drawn on the CPU whatever the device, so that the same seed starts the same model everywhere.
    model.to("cpu").initialise(torch.Generator().manual_seed(run.train.seed))
    if run.model.start is not None:
        _take_over(model, load_any(run.model.start, torch.float32))
    if run.objective.name == "contrastive" and isinstance(model, Encoder):
        _keep_head(model)
    if run.optimizer.base_width is not None:
        if not isinstance(model, Decoder):
            raise ConfigError("optimizer.base_width is for decoders; leave it out.")
        rescale(model, wanted.hidden_size / run.optimizer.base_width)
    return model.to(device)


def labels(loader: TrainingRows) -> tuple[str, ...]:
    """The classes of labelled rows, the two ends of spans; none for others."""
    if isinstance(loader, LabelLoader) and loader.form == "span":
        return "start", "end"
    found: tuple[str, ...] = getattr(loader, "labels", ())
    return found


def _needed(section: ModelSection, name: str) -> str:
    """The architecture that the objective ``name`` trains: the usual one, or a baseline that is asked for."""
    usual, asked = ARCHITECTURES[name], section.architecture
    if asked in (ModelSection.architecture, usual):
        return usual
    others = [known for known, (_, head) in BASELINES.items() if head == HEADS.get(name)]
    if asked in others:
        return asked
    more = f", or a {' or '.join(others)}" if others else ""
    raise ConfigError(
        f"objective.name = {name} trains a {usual}{more}, not a {asked}; leave model.architecture out."
    )


def _family(architecture: str) -> str:
    return architecture.partition("For")[0]


def _from_start(run: TrainRun, needed: str, loader: TrainingRows) -> Config:
    assert run.model.start is not None
    found = read_config(resolve(run.model.start))
    if isinstance(found, DecoderConfig) or _family(found.architecture) != _family(needed):
        raise ConfigError(
            f"objective.name = {run.objective.name} trains a {needed}, and model.start = {run.model.start} "
            f"holds a {found.architecture}; start from another checkpoint, or from none."
        )
    dropout = run.model.dropout
    if isinstance(found, EncoderDecoderConfig):
        return found if dropout is None else dataclasses.replace(found, dropout_rate=dropout)
    more: dict[str, Any] = {"architecture": needed, "labels": labels(loader), "crf": bool(run.model.crf)}
    if isinstance(found, BaselineConfig):
        more["sep_token_id"] = _separator(needed, loader)
        more["predicate_markers"] = _markers(run.model, needed, loader)
        more["max_position_embeddings"] = max(found.max_position_embeddings, run.data.sequence_length)
    changed = dataclasses.replace(found, **more)
    return changed if dropout is None else dataclasses.replace(changed, dropout=dropout)


def _take_over(model: torch.nn.Module, start: torch.nn.Module) -> None:
    """Copy every weight that both have in one shape; heads of another kind stay as they were drawn.

    What answers questions shares nothing but embeddings with other recurrent networks.
    """
    given = dict(start.named_parameters())
    drawn: tuple[str, ...] = ("classifier.", "output.", "crf.", "predicate.")
    if isinstance(model, SpanReader) != isinstance(start, SpanReader):
        drawn += tuple(
            f"{name}." for name, _ in model.named_children() if name not in ("embedding", "bigrams")
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            same = given.get(name)
            if same is not None and same.shape == parameter.shape:
                parameter.copy_(same)
            elif not name.startswith(drawn):
                raise ConfigError(
                    f"model.start has no {name} of the shape {list(parameter.shape)}; leave the sizes of the "
                    "model out, they are the checkpoint's."
                )


def _keep_head(model: Encoder) -> None:
    """Vectors are made below the head, which stays as it is: without gradients, decay and state."""
    for name, parameter in model.named_parameters():
        if name.startswith(("head.", "output.")):
            parameter.requires_grad_(False)


def _encoder(run: TrainRun, architecture: str, loader: TrainingRows) -> EncoderConfig:
    section, width = run.model, run.model.hidden_size or WIDTH
    return EncoderConfig(
        vocab_size=loader.vocab_size,
        hidden_size=width,
        intermediate_size=section.intermediate_size or feed_forward(width),
        num_hidden_layers=section.num_hidden_layers or LAYERS,
        num_attention_heads=section.num_attention_heads or max(1, width // HEAD),
        architecture=architecture,
        max_position_embeddings=run.data.sequence_length,
        labels=labels(loader),
        dropout=0.1 if section.dropout is None else section.dropout,
        crf=bool(section.crf),
    )


def _baseline(run: TrainRun, architecture: str, loader: TrainingRows) -> BaselineConfig:
    section = run.model
    for name in _NOT_OF_BASELINES:
        if getattr(section, name) is not None:
            raise ConfigError(f"model.{name} is not of a {architecture}; leave it out.")
    body, head = BASELINES[architecture]
    usual = TOKEN_CNN_LAYERS if (body, head) == ("cnn", "token") else BASELINE_LAYERS
    return BaselineConfig(
        vocab_size=loader.vocab_size,
        hidden_size=section.hidden_size or WIDTH,
        num_hidden_layers=section.num_hidden_layers or usual,
        architecture=architecture,
        labels=labels(loader),
        kernel_sizes=KERNEL_SIZES if body == "cnn" else (),
        bigram_buckets=section.bigram_buckets or 0,
        bigram_size=section.bigram_size or BaselineConfig.bigram_size,
        max_position_embeddings=run.data.sequence_length,
        dropout=0.1 if section.dropout is None else section.dropout,
        crf=bool(section.crf),
        sep_token_id=_separator(architecture, loader),
        predicate_markers=_markers(section, architecture, loader),
    )


def _separator(architecture: str, loader: TrainingRows) -> int | None:
    """The token between a question and its text, where the architecture has one."""
    if BASELINES[architecture][1] != "span":
        return None
    assert isinstance(loader, LabelLoader)
    return loader.eos_id


def _markers(section: ModelSection, architecture: str, loader: TrainingRows) -> tuple[int, int] | None:
    """The tokens around a predicate, where there are two and a tagger is to know them."""
    found: tuple[int, ...] = getattr(loader, "markers", ())
    tagger, told = BASELINES[architecture][1] == "token", len({*found}) == 2
    if section.predicate and not (tagger and told):
        raise ConfigError(
            "model.predicate is of recurrent networks and CNNs that label texts with predicates, whose "
            "tokenizer has two markers of turns; leave it out, or make such data with weft data supervised "
            "--form tag."
        )
    return (found[0], found[1]) if tagger and told and section.predicate is not False else None


def _encoder_decoder(section: ModelSection, vocab_size: int) -> EncoderDecoderConfig:
    width = section.hidden_size or WIDTH
    heads = section.num_attention_heads or max(1, width // HEAD)
    layers = section.num_hidden_layers or LAYERS
    return EncoderDecoderConfig(
        vocab_size=vocab_size,
        d_model=width,
        d_kv=section.head_dim or width // heads,
        d_ff=section.intermediate_size or feed_forward(width),
        num_layers=layers,
        num_decoder_layers=section.num_decoder_layers or layers,
        num_heads=heads,
        tie_word_embeddings=section.tie_word_embeddings,
        dropout_rate=0.1 if section.dropout is None else section.dropout,
    )

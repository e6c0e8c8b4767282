"""Hugging Face folders as checkpoints: a model from one, and one from a model.

``transformers``, vLLM and llama.cpp open what is written here with no code of ours. What is read may
come from anywhere: only safetensors and JSON are opened, nothing is run, and every name and shape is
compared with the model before its memory is taken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from weft.checkpoint.fields import TOKEN_IDS
from weft.checkpoint.kinds import KINDS, Config, Model, read_decoder_config
from weft.checkpoint.opened import open_folder, refuse_tokenizer_code
from weft.checkpoint.safe_folder import CONFIG, inside, read_json, resolve
from weft.checkpoint.spread import Spread
from weft.checkpoint.weights import Planned, read_tensors, write_tensors
from weft.core.errors import CheckpointError
from weft.core.files import write_text_atomic
from weft.models.decoder import Decoder
from weft.models.moe import routers
from weft.models.names import stacked, whole_name
from weft.parallel.company import Company
from weft.tokenizer.encode import Tokenizer

__all__ = ["load_any", "load_model", "resolve", "save_model", "write_model"]

GENERATION = "generation_config.json"
MAX_SHARD_BYTES = 2 * 10**9

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""What a tokenizer may consist of; all of it is data."""


class Held(Protocol):
    """A model, or what one rank holds of it under the names of the whole."""

    @property
    def config(self) -> Config:
        """The shape of the whole."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Whole or spread."""
        ...


def load_any(
    folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Model:
    """The model in a Hugging Face folder or a training run, its weights in ``dtype`` (None: as stored).

    Tensors are read one after another, so the peak of memory is the model and one tensor. Raises
    CheckpointError for anything missing, damaged, unsafe or outside the supported families.
    """
    opened = open_folder(folder)
    model = opened.empty
    for part, tensor in read_tensors({part: opened.headers[part] for part in opened.ours}):
        name, expert = opened.ours[part]
        _assign(model, name, expert, tensor.to(device=device, dtype=dtype or tensor.dtype, copy=True))
    for router in routers(model).values():
        router.reset(device)
    if opened.config.tie_word_embeddings and hasattr(model, "output"):
        model.output.weight = model.embedding.weight
    model.reset_buffers()
    return model.to(device)


def load_model(
    folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Decoder:
    """As :func:`load_any`, for a decoder; CheckpointError when the folder holds another kind of model."""
    read_decoder_config(resolve(folder))
    model = load_any(folder, dtype, device)
    assert isinstance(model, Decoder)
    return model


def save_model(
    folder: str | Path,
    model: Held,
    tokenizer: Tokenizer | str | Path | None,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    generation: Mapping[str, Any] | None = None,
    company: Company | None = None,
) -> None:
    """Write ``model`` as the Hugging Face folder ``folder``, whole or not at all; see :func:`write_model`."""
    company = company or Company()
    with company.directory(Path(folder)) as partial:
        write_model(
            partial,
            model,
            tokenizer,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
            generation=generation,
            company=company,
        )


def write_model(
    folder: Path,
    model: Held,
    tokenizer: Tokenizer | str | Path | None,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    generation: Mapping[str, Any] | None = None,
    company: Company | None = None,
) -> tuple[str, ...]:
    """Put ``model`` into an existing, empty folder and return the names of the files.

    ``tokenizer`` is one of ours, or a folder whose tokenizer files are copied as they are. ``dtype`` None
    keeps that of the weights. ``generation`` is the content of generation_config.json; its token ids also
    go to config.json, and without it the tokenizer's end of text is used. Every rank of ``company`` gives
    what it holds of the model, and no rank ever holds more of the others' than one file of weights. Raises
    CheckpointError when the tokenizer has more tokens than the model has embeddings, or routers have biases.
    """
    company = company or Company()
    company.all(lambda: _check_biases(model))
    spread = Spread(_own_parameters(model), company)
    config = model.config
    tensors = list(_planned(config, spread, dtype))
    company.first(lambda: _write_tables(folder, config, tokenizer, tensors[0].dtype, generation))
    write_tensors(folder, spread, tensors, max_shard_bytes)
    return company.first(lambda: tuple(sorted(file.name for file in folder.iterdir())))


def _write_tables(
    folder: Path,
    shape: Config,
    tokenizer: Tokenizer | str | Path | None,
    stored: torch.dtype,
    generation: Mapping[str, Any] | None,
) -> None:
    """Everything but the weights."""
    end, vocab_size = _write_tokenizer(folder, tokenizer)
    if vocab_size > shape.vocab_size:
        raise CheckpointError(
            f"The tokenizer has {vocab_size} tokens and the model vocab_size = {shape.vocab_size}; "
            "save the model with the tokenizer it was trained with."
        )
    if generation is None:
        generation = {} if end is None else {"eos_token_id": end, "pad_token_id": end}
    config = KINDS[shape.architecture].write(shape, str(stored).removeprefix("torch."), generation)
    write_text_atomic(folder / CONFIG, _pretty(config))
    known = {key: value for key, value in generation.items() if value is not None}
    write_text_atomic(folder / GENERATION, _pretty(known))


def read_generation(folder: Path) -> dict[str, Any]:
    """Generation defaults of a Hugging Face folder: its token ids, overlaid by generation_config.json."""
    config = read_json(folder, CONFIG)
    ids = {name: config.get(name) for name in TOKEN_IDS}
    if not inside(folder, GENERATION).exists():
        return ids
    return {**ids, **read_json(folder, GENERATION)}


def _own_parameters(model: Held) -> dict[str, Tensor]:
    """What this rank holds by its name in the whole model; a tied output matrix is the embedding."""
    return {
        whole_name(name, tied=model.config.tie_word_embeddings): parameter
        for name, parameter in model.named_parameters()
    }


def _planned(config: Config, spread: Spread, dtype: torch.dtype | None) -> Iterator[Planned]:
    """Every tensor of a Hugging Face folder, in the order of the whole model's parameters."""
    kind = KINDS[config.architecture]
    with torch.device("meta"):
        model = kind.build(config)
    for name, parameter in model.named_parameters():
        for stored, part in kind.parts(config, name, parameter.shape):
            size = tuple(parameter.shape[1:] if stacked(name) else parameter.shape)
            yield Planned(stored, name, part, size, dtype or spread.dtype(name))


def _check_biases(model: Held) -> None:
    """No stock architecture can say them, so that what is written would not be what was trained."""
    assert isinstance(model, nn.Module)
    largest = max((float(router.bias.abs().max()) for router in routers(model).values()), default=0.0)
    if largest:
        raise CheckpointError(
            f"The biases that balance the experts are up to {largest:.2g}, and a stock "
            f"{model.config.architecture} has none, so it would choose other experts than in training; train "
            "to the end with balance.release above 0, or set them to 0 knowingly."
        )


@torch.no_grad()
def _assign(model: Model, name: str, expert: int | None, tensor: Tensor) -> None:
    """Let ``tensor`` be the parameter ``name``, or the part of it that belongs to ``expert``."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if expert is None:
        module.register_parameter(leaf, nn.Parameter(tensor))
        return
    whole = module.get_parameter(leaf)
    if whole.is_meta:
        # The first expert that is read brings the memory for all, in its dtype and on its device.
        whole = nn.Parameter(torch.empty(whole.shape, dtype=tensor.dtype, device=tensor.device))
        module.register_parameter(leaf, whole)
    whole[expert] = tensor


def _write_tokenizer(folder: Path, tokenizer: Tokenizer | str | Path | None) -> tuple[int | None, int]:
    """Save or copy the tokenizer; returns its end of text and its number of tokens, (None, 0) without one."""
    if tokenizer is None:
        return None, 0
    if not isinstance(tokenizer, Tokenizer):
        source = Path(tokenizer)
        refuse_tokenizer_code(source)
        for name in TOKENIZER_FILES:
            file = inside(source, name)
            if file.is_file():
                shutil.copyfile(file, folder / name)
        if not (folder / "tokenizer.json").exists():
            return None, 0
        tokenizer = Tokenizer.load(folder)
    else:
        tokenizer.save(folder)
    return tokenizer.eos_id, tokenizer.vocab_size


def _pretty(table: Mapping[str, Any]) -> str:
    return json.dumps(table, ensure_ascii=False, indent=2) + "\n"

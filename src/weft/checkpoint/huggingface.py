"""Hugging Face folders as checkpoints: a model from one, and one from a model.

``transformers``, vLLM and llama.cpp open what is written here with no code of ours. What is read may
come from anywhere: only safetensors and JSON are opened, nothing is run, and every name and shape is
compared with the model before its memory is taken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from weft.checkpoint.fields import TOKEN_IDS
from weft.checkpoint.kinds import KINDS, Config, Kind, Model, read_config, read_decoder_config
from weft.checkpoint.safe_folder import CONFIG, inside, read_json, resolve
from weft.checkpoint.spread import Box, Spread
from weft.checkpoint.weights import Planned, StoredTensor, read_headers, read_tensors, some, write_tensors
from weft.core.errors import CheckpointError
from weft.core.files import write_text_atomic
from weft.models.decoder import Decoder
from weft.models.moe import routers
from weft.models.names import stacked, whole_name
from weft.parallel.company import Company
from weft.tokenizer.encode import Tokenizer

__all__ = ["load_any", "load_model", "open_decoder", "open_folder", "resolve", "save_model", "write_model"]

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


@dataclass(frozen=True)
class Opened:
    """A Hugging Face folder of which everything was checked and nothing read yet.

    ``empty``: its model without memory; ``ours``: its names to ours, and the expert's
    number where ours holds all of them; ``headers``: where tensors lie.
    """

    empty: Model
    ours: dict[str, tuple[str, int | None]]
    headers: dict[str, StoredTensor]

    @property
    def config(self) -> Config:
        """The shape of the model."""
        return self.empty.config

    def parts(self, name: str) -> dict[str, Box]:
        """The stored tensors that make up our parameter ``name``, and which box of it each is."""
        shape = self.empty.get_parameter(name).shape
        return dict(KINDS[self.config.architecture].parts(self.config, name, shape))


def open_folder(folder: str | Path) -> Opened:
    """Check a Hugging Face folder or a training run; CheckpointError as in :func:`load_model`."""
    folder = resolve(folder)
    config = read_config(folder)
    _refuse_tokenizer_code(folder)
    kind = KINDS[config.architecture]
    headers = {name: stored for name, stored in read_headers(folder).items() if not _is_derived(name)}
    model = _empty_model(folder, config, len(headers))
    ours = {
        part: (name, expert if stacked(name) else None)
        for name, parameter in model.named_parameters()
        for expert, (part, _) in enumerate(kind.parts(config, name, parameter.shape))
    }
    _check_tied(folder, kind, config, headers)
    _check_names(folder, model, ours, headers)
    return Opened(model, ours, headers)


def open_decoder(folder: str | Path) -> tuple[Opened, Decoder]:
    """As :func:`open_folder`, with its empty decoder; CheckpointError for another kind of model."""
    read_decoder_config(resolve(folder))
    opened = open_folder(folder)
    assert isinstance(opened.empty, Decoder)
    return opened, opened.empty


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


def _is_derived(name: str) -> bool:
    """Old Llama checkpoints store what follows from rope_theta; transformers ignores it as well."""
    return name.endswith("rotary_emb.inv_freq")


def _empty_model(folder: Path, config: Config, tensors: int) -> Model:
    """A model without memory, once the files can hold as many layers as the config claims."""
    claims = (("num_hidden_layers", "layers"), ("num_layers", "layers"), ("num_decoder_layers", "layers"))
    for name, what in (*claims, ("num_experts", "experts")):
        claimed = getattr(config, name, 0)
        if claimed > tensors:
            raise CheckpointError(
                f"{folder / CONFIG} claims {claimed} {what} and the weights hold only {tensors} tensors; "
                "copy the checkpoint again."
            )
    try:
        with torch.device("meta"):
            return KINDS[config.architecture].build(config)
    except (RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{folder / CONFIG} claims sizes that no machine can hold.") from error


def _check_tied(folder: Path, kind: Kind, config: Config, headers: dict[str, StoredTensor]) -> None:
    """What is the embedding may be stored a second time, if it is the same; those copies are dropped."""
    tied = (kind.output,) if config.tie_word_embeddings else ()
    for copy in (*tied, *kind.copies):
        if copy not in headers or kind.embedding not in headers:
            continue
        pair = dict(read_tensors({name: headers[name] for name in (copy, kind.embedding)}))
        if not torch.equal(pair[copy], pair[kind.embedding]):
            raise CheckpointError(
                f"{folder / CONFIG} ties the embeddings and the weights hold two different ones ({copy}); "
                "set tie_word_embeddings = false if the second is meant."
            )
        del headers[copy]


def _check_names(
    folder: Path,
    model: Model,
    ours: Mapping[str, tuple[str, int | None]],
    headers: Mapping[str, StoredTensor],
) -> None:
    missing = sorted(set(ours) - set(headers))
    if missing:
        raise CheckpointError(
            f"The weights in {folder} lack {some(missing)}, which a {model.config.architecture} of this "
            "config.json has; copy the whole checkpoint again."
        )
    extra = sorted(set(headers) - set(ours))
    if extra:
        raise CheckpointError(
            f"The weights in {folder} hold {some(extra)}, which Weft's {model.config.architecture} of this "
            "config.json does not have; it would not compute the same."
        )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, (own, expert) in ours.items():
        shape = shapes[own] if expert is None else shapes[own][1:]
        if headers[name].shape != shape:
            raise CheckpointError(
                f"{name} in {headers[name].file} has the shape {list(headers[name].shape)}, and config.json "
                f"asks for {list(shape)}; the two files do not belong together."
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
        _refuse_tokenizer_code(source)
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


def _refuse_tokenizer_code(folder: Path) -> None:
    if inside(folder, "tokenizer_config.json").exists():
        read_json(folder, "tokenizer_config.json")


def _pretty(table: Mapping[str, Any]) -> str:
    return json.dumps(table, ensure_ascii=False, indent=2) + "\n"

"""A Hugging Face folder, checked before its weights are read: names and shapes against its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from weft.checkpoint.kinds import KINDS, Config, Kind, Model, read_config, read_decoder_config
from weft.checkpoint.safe_folder import CONFIG, inside, read_json, resolve
from weft.checkpoint.spread import Box
from weft.checkpoint.weights import StoredTensor, read_headers, read_tensors, some
from weft.core.errors import CheckpointError
from weft.models.decoder import Decoder
from weft.models.names import stacked


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
    """Check a Hugging Face folder or a training run.

    CheckpointError as :func:`weft.checkpoint.huggingface.load_any` says.
    """
    folder = resolve(folder)
    config = read_config(folder)
    refuse_tokenizer_code(folder)
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


def refuse_tokenizer_code(folder: Path) -> None:
    """CheckpointError when the tokenizer of ``folder`` asks for code of its own, or its template is a link to
    a file outside, which prompts would give away."""
    if inside(folder, "tokenizer_config.json").exists():
        read_json(folder, "tokenizer_config.json")
    inside(folder, "chat_template.jinja")


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

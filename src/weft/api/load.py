"""``weft.load(path)``: a trained checkpoint of any kind, ready for use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from weft.api.abilities import usual_card
from weft.api.model import Model
from weft.api.reading import ReadingModel
from weft.api.writing import WritingModel
from weft.checkpoint.huggingface import load_any, load_model, read_generation, resolve
from weft.checkpoint.kinds import read_config
from weft.checkpoint.safe_folder import read_json
from weft.core.errors import CheckpointError, ResourceError, UsageError
from weft.core.hardware import usable_cores
from weft.engine.early_exit import early_exit
from weft.engine.runner import prepare
from weft.engine.weights import for_inference
from weft.models import Decoder, DecoderConfig
from weft.models.baseline import Baseline
from weft.models.encdec import EncoderDecoder
from weft.models.encoder import Encoder
from weft.tasks import read_card
from weft.tasks.naive_bayes import FILE, NaiveBayes
from weft.tokenizer import Tokenizer

CACHE_DTYPES = {None: None, "int8": torch.int8}
"""What keys and values may be kept in; None is the format of the work."""


def load(
    path: str | Path,
    dtype: str | None = None,
    device: str | None = None,
    *,
    max_sequences: int = 8,
    adapters: Mapping[str, str | Path] | None = None,
    draft: str | Path | None = None,
    draft_layers: int | None = None,
    speculation: bool = True,
    cache_dtype: str | None = None,
) -> Any:
    """Open a checkpoint folder for use: a decoder as :class:`weft.api.model.Model`, an encoder as
    :class:`weft.api.reading.ReadingModel`, an encoder-decoder as :class:`weft.api.writing.WritingModel`.

    ``dtype`` is that of the weights, "float32", "bfloat16", "int8" or "int4" (None: bf16 where the
    processor computes in it, else fp32); "auto-int8" and "auto-int4" take these only for the shapes of
    matrices where that is measured to be faster, which takes a second once a machine. On a GPU it is one of
    the first three or "fp8" (from compute capability 8.9). ``device`` is
    "cpu", "cuda" or "cuda:1" (None: the GPU when there is one). ``max_sequences`` are worked on at once.

    ``adapters`` are LoRA adapters by name, PEFT folders; an empty mapping has none yet and lets them come
    later. They take a second copy of the weights, in bf16 or fp32 whatever ``dtype`` says, which requests
    with an adapter go through. ``draft`` is a small checkpoint of the same tokenizer that guesses ahead;
    ``draft_layers`` lets so many first layers of the model itself guess; ``speculation`` False guesses none,
    not even from the text itself; none of them changes an answer. ``cache_dtype`` "int8" halves the memory of
    keys and values and changes answers a little (``weft bench cache`` measures it).
    Raises CheckpointError for a folder that is missing, foreign, unsafe or damaged.
    """
    folder = resolve(path)
    shape = read_config(folder)
    if not isinstance(shape, DecoderConfig):
        given = (adapters or None, draft, draft_layers, cache_dtype)
        if any(option is not None for option in given):
            raise UsageError(
                "adapters, draft, draft_layers and cache_dtype are for decoders, not for a "
                f"{shape.architecture}."
            )
        return task_model(folder, dtype, device)
    if cache_dtype not in CACHE_DTYPES:
        raise UsageError(f"cache_dtype = {cache_dtype!r} is not a choice; write int8, or leave it out.")
    if draft is not None and draft_layers is not None:
        raise UsageError("draft and draft_layers both say who guesses; leave one of the two out.")
    if not speculation and (draft is not None or draft_layers is not None):
        # Before anything is read, which may take minutes.
        raise UsageError("A draft model without speculation would do nothing; leave one of the two out.")
    place = _device(device)
    # PyTorch counts cores that a container's quota forbids, and threads beyond the quota wait for each other.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    model = for_inference(load_model(folder), place, dtype)
    ends = read_generation(folder).get("eos_token_id") or []
    known = [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)]
    # Packed matrices take no low-rank part: requests with an adapter go through plain layers.
    work = model.embedding.weight.dtype
    adapted = None if adapters is None else prepare(load_model(folder), place, work)
    loaded = Model(
        model,
        Tokenizer.load(folder),
        max_sequences=max_sequences,
        ends=known,
        adapted=adapted,
        draft=_guesser(model, draft, draft_layers, place, dtype),
        speculation=speculation,
        cache_dtype=CACHE_DTYPES[cache_dtype],
    )
    for name, adapter in (adapters or {}).items():
        loaded.load_adapter(name, adapter)
    return loaded


def _guesser(
    model: Decoder, draft: str | Path | None, layers: int | None, place: torch.device, dtype: str | None
) -> Decoder | None:
    if layers is not None:
        return early_exit(model, layers)
    return None if draft is None else for_inference(load_model(resolve(draft)), place, dtype)


def task_model(
    folder: Path, dtype: str | None, device: str | None = None, *, votes: bool = True
) -> ReadingModel | WritingModel:
    """An encoder or encoder-decoder in fp32 or bf16, on the CPU; without ``votes`` its network alone."""
    formats = {None: torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in formats:
        raise UsageError(
            f"dtype = {dtype!r} is not a choice for this kind of model; write float32 or bfloat16."
        )
    if _device(device or "cpu").type != "cpu":
        raise UsageError("Encoders and encoder-decoders are served on the CPU; leave device out.")
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    model, tokenizer = load_any(folder, formats[dtype]), Tokenizer.load(folder)
    card = read_card(folder, usual_card(model.config))
    if isinstance(model, EncoderDecoder):
        return WritingModel(model, tokenizer, card)
    assert isinstance(model, Encoder | Baseline)
    bayes = counted(folder, model.config.labels) if votes and card.bayes else None
    return ReadingModel(model, tokenizer, card, bayes)


def counted(folder: Path, labels: Sequence[str]) -> NaiveBayes:
    """What stands beside the network of a checkpoint. CheckpointError where it is missing or damaged."""
    table = read_json(folder, FILE)
    try:
        return NaiveBayes.parsed(table, labels)
    except ValueError as error:
        raise CheckpointError(
            f"{folder / FILE} is damaged: {error}; copy the checkpoint again, or take the vote out with weft "
            "calibrate --no-bayes."
        ) from error


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device = {name!r} is not a choice; write cpu, cuda or cuda:1.") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device = {name!r} is not supported; write cpu, cuda or cuda:1.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(f"There is no GPU {name}: PyTorch sees {torch.cuda.device_count()} of them.")
    return device

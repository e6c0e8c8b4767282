"""A Hugging Face folder into a model that is already spread: each rank reads its own parts of the files.

No rank ever holds the whole model, and of a tensor only the part that is its own.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from weft.checkpoint.huggingface import Held
from weft.checkpoint.opened import open_decoder, open_folder
from weft.checkpoint.spread import box, common, within
from weft.checkpoint.weights import read_parts
from weft.core.errors import CheckpointError
from weft.models.decoder import Decoder, rope_frequencies
from weft.models.moe import routers
from weft.models.names import whole_name
from weft.ops.local import local


def empty_model(folder: str | Path, device: torch.device) -> Decoder:
    """The decoder of ``folder`` with parameters on the meta device, to be laid out and then filled."""
    _, model = open_decoder(folder)
    model.inverse_frequencies = rope_frequencies(model.config).to(device)
    for router in routers(model).values():
        router.reset(device)
    return model


@torch.no_grad()
def fill_model(folder: str | Path, model: Held) -> None:
    """Read the weights in ``folder`` into the parameters of ``model``, which keep their dtype and device.

    ``model`` is a decoder, or a stage of one, whose parameters this rank holds whole or in parts. Raises
    CheckpointError as :func:`weft.checkpoint.huggingface.load_model` does, and when the folder's model has
    another shape.
    """
    opened = open_folder(folder)
    if opened.config != model.config:
        raise CheckpointError(f"{folder} holds a model of another shape than the one to be filled.")
    own = [
        (whole_name(name, tied=model.config.tie_word_embeddings), p.detach())
        for name, p in model.named_parameters()
    ]
    for name, tensor in own:
        wanted: dict[str, tuple[slice, ...]] = {}
        targets: dict[str, Tensor] = {}
        held = box(tensor)
        for stored, part in opened.parts(name).items():
            piece = common(held, part)
            if piece is not None:
                targets[stored] = local(tensor)[within(piece, held)]
                # A tensor of one expert lacks the dimension that stacks them.
                wanted[stored] = within(piece, part)[len(part) - len(opened.headers[stored].shape) :]
        for stored, read in read_parts(opened.headers, wanted):
            targets[stored].copy_(read.view(targets[stored].shape))

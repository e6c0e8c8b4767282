"""A draft without another checkpoint: the first layers of the model itself guess (self-speculation)."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from weft.core.errors import UsageError
from weft.engine.fused import FusedDecoder
from weft.engine.weights import PackedDecoder
from weft.models import Decoder


def early_exit(model: Decoder, layers: int) -> Decoder:
    """The first ``layers`` blocks of ``model``, its final norm and its output; all weights are shared.

    Such guesses are good where the model was trained to be left early (arXiv:2404.16710), and seldom pay
    elsewhere. Raises UsageError unless some layers are taken and some left.
    """
    depth = model.config.num_hidden_layers
    if not isinstance(layers, int) or not 1 <= layers < depth:
        raise UsageError(
            f"The first {layers!r} of {depth} layers cannot guess for all; take from 1 to {depth - 1}."
        )
    config = replace(model.config, num_hidden_layers=layers)
    if isinstance(model, PackedDecoder | FusedDecoder):
        return model.shortened(config)
    draft = Decoder.__new__(Decoder)
    nn.Module.__init__(draft)
    draft.config = config
    draft.embedding, draft.norm, draft.output = model.embedding, model.norm, model.output
    draft.blocks = model.blocks[:layers]
    draft.register_buffer("inverse_frequencies", model.inverse_frequencies, persistent=False)
    return draft.eval()

"""A decoder in its form for inference: packed weights, and one native call between two attentions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.core.errors import UsageError
from weft.models import Decoder
from weft.models.layers import Block, FeedForward
from weft.ops.cache import AttentionContext
from weft.ops.packed import Format, Packed, pack
from weft.ops.rope import rotation
from weft.ops.step import Heads, PackedLayer, Steps


class PackedDecoder(Decoder):
    """A decoder whose blocks are packed for this processor; it computes and is not trained.

    The residual stream, norms and hidden states are fp32; q, k, v and the cache have the dtype of
    ``embedding``. Every row's result is bitwise the same in any company of other rows.
    """

    def __init__(self, model: Decoder, form: Format, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.config = config = model.config
        self.form = form
        weight = model.embedding.weight.detach()
        self.embedding = nn.Embedding(*weight.shape, _weight=weight.to(dtype))
        self.register_buffer("inverse_frequencies", model.inverse_frequencies, persistent=False)
        output = pack([model.output.weight], form)
        layers = [_pack_block(block, form) for block in model.blocks]  # type: ignore[arg-type]
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        final = model.norm.weight.detach().float()
        self._steps = Steps(layers, final, output, heads, config.rms_norm_eps, dtype)

    def forward(
        self, tokens_BT: Tensor, context: AttentionContext, dtype: torch.dtype | None = None
    ) -> Tensor:
        """int64 [B, T] -> final hidden states, fp32 [B, T, E]. UsageError for a ``dtype``: it is fixed."""
        if dtype is not None:
            raise UsageError("The dtype of packed weights is fixed; load the model anew with another.")
        B, T = tokens_BT.shape
        x_ME = F.embedding(tokens_BT.view(-1), self.embedding.weight).float()
        cos, sin = (
            angle.expand(B, T, -1).reshape(B * T, -1)
            for angle in rotation(context.positions(tokens_BT), self.inverse_frequencies)
        )
        run = self._steps.pass_through(x_ME, cos, sin)
        q, k, v = (x.view(B, T, *x.shape[1:]) for x in (run.q, run.k, run.v))
        for layer in range(self._steps.depth):
            run.advance(context.attend(layer, q, k, v).contiguous())
        return run.hidden().view(B, T, -1)

    def logits(self, hidden_BTE: Tensor) -> Tensor:
        """Scores over the vocabulary, fp32 [..., V]."""
        scores = self._steps.logits(hidden_BTE.reshape(-1, hidden_BTE.shape[-1]))
        return scores.view(*hidden_BTE.shape[:-1], -1)


def _pack_block(block: Block, form: Format) -> PackedLayer:
    attention, feed = block.attention, block.feed_forward
    assert isinstance(feed, FeedForward)
    projections = (attention.q, attention.k, attention.v)
    norms = (attention.q_norm, attention.k_norm)
    q_norm, k_norm = (None if norm is None else norm.weight.detach().float() for norm in norms)
    return PackedLayer(
        qkv=pack([p.weight for p in projections], form, [p.bias for p in projections]),
        o=_pack_one(attention.o, form),
        gate_up=pack([feed.gate.weight, feed.up.weight], form),
        down=_pack_one(feed.down, form),
        attention_norm=block.attention_norm.weight.detach().float(),
        feed_norm=block.feed_forward_norm.weight.detach().float(),
        q_norm=q_norm,
        k_norm=k_norm,
    )


def _pack_one(matrix: nn.Linear, form: Format) -> Packed:
    return pack([matrix.weight], form, [matrix.bias])

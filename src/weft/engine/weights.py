"""A decoder in its form for inference: packed weights, and one native call between two attentions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.core.errors import UsageError
from weft.engine.runner import best_dtype, prepare
from weft.models import Decoder
from weft.models.layers import Block, FeedForward, Linear
from weft.models.moe import SparseFeedForward
from weft.ops.cache import AttentionContext
from weft.ops.kernels import decoder
from weft.ops.packed import Format, pack
from weft.ops.quantise import QuantisedLinear
from weft.ops.rope import rotation
from weft.ops.step import Heads, PackedExperts, PackedFeed, PackedLayer, Steps

FORMATS = {
    "float32": Format.FLOAT32,
    "bfloat16": Format.BFLOAT16,
    "int8": Format.INT8,
    "int4": Format.INT4,
}


def for_inference(model: Decoder, device: torch.device, weights: str | None = None) -> Decoder:
    """The model as this device computes it best; ``model`` itself may be changed.

    ``weights`` is a name of FORMATS, or None for bf16 where the processor computes in it and else fp32:
    int8 and int4 change what the model says a little, so they are asked for. Without a compiler the
    modules serve as they are, and whole-number weights through their plain, slow products.
    Raises UsageError for another name, and for whole-number weights on a GPU.
    """
    if weights is not None and weights not in FORMATS:
        raise UsageError(f"dtype = {weights!r} is not a choice; write one of: {', '.join(FORMATS)}.")
    whole = weights in ("int8", "int4")
    if whole and device.type != "cpu":
        raise UsageError(f"{weights} weights are for processors only; write bfloat16 or float32 for a GPU.")
    dtype = best_dtype(device, None if whole else weights)
    if device.type == "cpu" and decoder() is not None:
        form = Format.FLOAT32 if dtype is torch.float32 else Format.BFLOAT16
        return PackedDecoder(model, FORMATS[weights] if weights else form, dtype)
    plain = prepare(model, device, dtype)
    return quantised(plain, 8 if weights == "int8" else 4) if whole else plain


def quantised(model: Decoder, bits: int) -> Decoder:
    """The model with plain layers of int8 or int4, in place; the stacks of experts stay as they are."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                setattr(module, name, QuantisedLinear(child, bits))
    return model


class PackedDecoder(Decoder):
    """A decoder whose blocks are packed for this processor; it computes and is not trained.

    The residual stream, norms and hidden states are fp32; q, k, v and the cache have the dtype of
    ``embedding``. Every row's result is bitwise the same in any company of other rows.
    """

    def __init__(self, model: Decoder, form: Format, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.config = config = model.config
        self.form = form
        weight = model.embedding.weight.detach().to(dtype)
        self.embedding = nn.Embedding(len(weight), weight.shape[1], device="meta")
        self.embedding.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("inverse_frequencies", model.inverse_frequencies, persistent=False)
        output = pack([model.output.weight], form)
        layers = [_pack_block(block, form) for block in model.blocks]  # type: ignore[arg-type]
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        final = model.norm.weight.detach().float()
        self._steps = Steps(layers, final, output, heads, config.rms_norm_eps, dtype)

    @property
    def number_format(self) -> str:
        """A name of FORMATS."""
        return self.form.name.lower()

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
        scores = self._steps.product(self._steps.output, hidden_BTE.reshape(-1, hidden_BTE.shape[-1]))
        return scores.view(*hidden_BTE.shape[:-1], -1)


def _pack_block(block: Block, form: Format) -> PackedLayer:
    attention = block.attention
    projections = (attention.q, attention.k, attention.v)
    norms = (attention.q_norm, attention.k_norm)
    q_norm, k_norm = (None if norm is None else norm.weight.detach().float() for norm in norms)
    return PackedLayer(
        qkv=pack([p.weight for p in projections], form, [p.bias for p in projections]),
        o=pack([attention.o.weight], form, [attention.o.bias]),
        feed=_pack_feed(block.feed_forward, form),
        attention_norm=block.attention_norm.weight.detach().float(),
        feed_norm=block.feed_forward_norm.weight.detach().float(),
        q_norm=q_norm,
        k_norm=k_norm,
    )


def _pack_feed(feed: nn.Module, form: Format) -> PackedFeed | PackedExperts:
    if isinstance(feed, FeedForward):
        gate_up = pack([feed.gate.weight, feed.up.weight], form)
        return PackedFeed(gate_up, pack([feed.down.weight], form))
    assert isinstance(feed, SparseFeedForward)
    router, stack = feed.router, feed.experts
    experts = tuple(
        PackedFeed(pack([gate, up], form), pack([down], form))
        for gate, up, down in zip(stack.gate, stack.up, stack.down, strict=True)
    )
    return PackedExperts(pack([router.weight], Format.FLOAT32), experts, router.chosen, router.normalised)

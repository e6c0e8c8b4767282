"""A decoder in its form for inference: packed weights, and native calls for all layers or half of two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.core.errors import ResourceError, UsageError
from weft.engine.formats import Choice, Measure, Shape, choose, figures_file
from weft.engine.fused import FusedDecoder, dense
from weft.engine.runner import best_dtype, prepare
from weft.models import Decoder, DecoderConfig
from weft.models.layers import Block, FeedForward, Linear
from weft.models.moe import SparseFeedForward
from weft.ops.arena import Arena
from weft.ops.cache import AttentionContext, NativeContext, NativeModel
from weft.ops.float8 import CAPABILITY, has_float8
from weft.ops.kernels import decoder
from weft.ops.packed import Format, Packed, pack
from weft.ops.quantise import QuantisedLinear
from weft.ops.rope import rotation
from weft.ops.step import Heads, PackedExperts, PackedFeed, PackedLayer, Steps, gates_and_values
from weft.ops.whole_step import WholeStep

FORMATS = {
    "float32": Format.FLOAT32,
    "bfloat16": Format.BFLOAT16,
    "int8": Format.INT8,
    "int4": Format.INT4,
}
FLOAT8 = "fp8"
"""The name of a format that GPUs alone have."""
MEASURED = {"auto-int8": (Format.INT8,), "auto-int4": (Format.INT8, Format.INT4)}
"""Names that leave the format of each matrix to a measurement, and what it may take besides the usual one."""


def for_inference(
    model: Decoder, device: torch.device, weights: str | None = None, *, measure: Measure | None = None
) -> Decoder:
    """The model as this device computes it best; ``model`` itself may be changed.

    ``weights`` is a name of FORMATS or MEASURED, or FLOAT8, or None for bf16 where the processor computes in
    it and else fp32: fp8, int8 and int4 change what the model says a little, so they are asked for. A name of
    MEASURED gives each matrix int8 (or int4) only where that is faster here; figures that ``measure`` finds
    are not kept. Without a compiler the modules serve as they are, and whole-number weights through their
    plain, slow products, which a measurement never takes.
    A GPU takes float32, bfloat16, fp8 and int8; models with experts the first two.
    Raises UsageError for another name and for what this device does not take, and ResourceError for fp8 on a
    GPU that does not multiply it.
    """
    names = (*FORMATS, FLOAT8, *MEASURED)
    if weights is not None and weights not in names:
        raise UsageError(f"dtype = {weights!r} is not a choice; write one of: {', '.join(names)}.")
    if device.type != "cpu":
        return _for_gpu(model, device, weights)
    if weights == FLOAT8:
        raise UsageError("fp8 weights are for GPUs only; write int8 or bfloat16 for a processor.")
    whole = weights in ("int8", "int4")
    dtype = best_dtype(device, weights if weights in FORMATS and not whole else None)
    if decoder() is not None:
        form = Format.FLOAT32 if dtype is torch.float32 else Format.BFLOAT16
        if weights in MEASURED:
            file = figures_file() if measure is None else None
            choices = choose(matrix_shapes(model), (form, *MEASURED[weights]), measure, file)
            return PackedDecoder(model, choices, dtype)
        return PackedDecoder(model, FORMATS[weights] if weights else form, dtype)
    plain = prepare(model, device, dtype)
    return quantised(plain, 8 if weights == "int8" else 4) if whole else plain


def _for_gpu(model: Decoder, device: torch.device, weights: str | None) -> Decoder:
    if weights == "int4" or weights in MEASURED:
        raise UsageError(
            f"{weights} weights are for processors only; write bfloat16, float32, fp8 or int8 for a GPU."
        )
    if weights == FLOAT8 and not has_float8(device):
        raise ResourceError(
            f"This GPU does not multiply fp8, which begins with compute capability {CAPABILITY[0]}."
            f"{CAPABILITY[1]}; write int8 or bfloat16."
        )
    small = weights in (FLOAT8, "int8")
    if small and not dense(model):
        raise UsageError(f"{weights} weights on a GPU are for models without experts; write bfloat16.")
    dtype = best_dtype(device, None if small else weights)
    if not dense(model):
        return prepare(model, device, dtype)
    name = weights if weights is not None else str(dtype).removeprefix("torch.")
    return FusedDecoder(prepare(model, device, dtype), name)


def described(model: Decoder) -> dict[str, Any]:
    """For reports: ``format``, the names of the number formats, and ``choices``, a line for each shape of
    matrix whose format was chosen by measurement."""
    choices = model.choices if isinstance(model, PackedDecoder) else ()
    return {"format": model.number_format, "choices": list(map(str, choices))}


def matrix_shapes(model: Decoder) -> Counter[Shape]:
    """How many matrices of each shape the packed model has, but for the routers of experts."""
    blocks = [list(_block_matrices(block)) for block in model.blocks]  # type: ignore[arg-type]
    matrices = [[model.output.weight], *(matrix for block in blocks for matrix in block)]
    return Counter((sum(map(len, parts)), parts[0].shape[1]) for parts in matrices)


def _block_matrices(block: Block) -> Iterator[list[Tensor]]:
    """The parts of each matrix of a block, one below the other."""
    attention, feed = block.attention, block.feed_forward
    yield [attention.q.weight, attention.k.weight, attention.v.weight]
    yield [attention.o.weight]
    if isinstance(feed, FeedForward):
        yield from ([feed.gate.weight, feed.up.weight], [feed.down.weight])
        return
    stack = feed.experts
    for gate, up, down in zip(stack.gate, stack.up, stack.down, strict=True):
        yield from ([gate, up], [down])


def quantised(model: Decoder, bits: int) -> Decoder:
    """The model with plain layers of int8 or int4, in place; the stacks of experts stay as they are."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                setattr(module, name, QuantisedLinear(child, bits))
    return model


class PackedDecoder(Decoder, NativeModel):
    """A decoder whose blocks are packed for this processor; it computes and is not trained.

    The residual stream, norms and hidden states are fp32; q, k, v and the cache have the dtype of
    ``embedding``. Every row's result is bitwise the same in any company of other rows. ``forms`` is the
    format of all matrices, or the choice for each shape; ``choices`` are then those that were made.
    """

    def __init__(self, model: Decoder, forms: Format | Mapping[Shape, Choice], dtype: torch.dtype):
        nn.Module.__init__(self)
        self.config = config = model.config
        self.choices = () if isinstance(forms, Format) else tuple(forms.values())
        fit = _fitter(forms)
        weight = model.embedding.weight.detach().to(dtype)
        self.embedding = nn.Embedding(len(weight), weight.shape[1], device="meta")
        self.embedding.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("inverse_frequencies", model.inverse_frequencies, persistent=False)
        output = fit([model.output.weight], ())
        layers = [_pack_block(block, fit) for block in model.blocks]  # type: ignore[arg-type]
        self._forms = (forms,) if isinstance(forms, Format) else sorted({c.form for c in self.choices})
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        final = model.norm.weight.detach().float()
        self._go(Steps(layers, final, output, heads, config.rms_norm_eps, dtype))

    def _go(self, steps: Steps) -> None:
        """By ``steps``, and in one call where no layer has experts."""
        dense = all(isinstance(layer.feed, PackedFeed) for layer in steps.layers)
        weight, frequencies = self.embedding.weight.data, self.inverse_frequencies
        self._steps, self._whole = steps, WholeStep(steps, weight, frequencies) if dense else None

    def shortened(self, config: DecoderConfig) -> PackedDecoder:
        """The first of its layers, as many as ``config`` has; weights are shared, buffers are not."""
        short = PackedDecoder.__new__(PackedDecoder)
        nn.Module.__init__(short)
        short.config, short.choices, short._forms = config, self.choices, self._forms
        short.embedding = self.embedding
        short.register_buffer("inverse_frequencies", self.inverse_frequencies, persistent=False)
        short._go(self._steps.shortened(config.num_hidden_layers))
        return short

    @property
    def number_format(self) -> str:
        """A name of FORMATS, or several: "bfloat16+int8"."""
        return "+".join(form.name.lower() for form in self._forms)

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
        run.begin()
        q, k, v = (x.view(B, T, *x.shape[1:]) for x in (run.q, run.k, run.v))
        for layer in range(self._steps.depth):
            run.advance(context.attend(layer, q, k, v).contiguous())
        return run.hidden().view(B, T, -1)

    def step(
        self, tokens: Items[int], wanted: Items[int], context: NativeContext
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`weft.ops.cache.NativeModel`."""
        attention = context.native(self._whole.q) if self._whole else None
        return self._whole.run(tokens, wanted, attention) if self._whole and attention else None

    def logits(self, hidden_BTE: Tensor) -> Tensor:
        """Scores over the vocabulary, fp32 [..., V]."""
        scores = self._steps.product(self._steps.output, hidden_BTE.reshape(-1, hidden_BTE.shape[-1]))
        return scores.view(*hidden_BTE.shape[:-1], -1)


_Fit = Callable[[Items[Tensor], Items[Tensor | None]], Packed]
"""``(weights, biases)`` to one matrix in its format."""


def _fitter(forms: Format | Mapping[Shape, Choice]) -> _Fit:
    memory = Arena()

    def fit(weights: Items[Tensor], biases: Items[Tensor | None]) -> Packed:
        shape = (sum(map(len, weights)), weights[0].shape[1])
        return pack(weights, forms if isinstance(forms, Format) else forms[shape].form, biases, memory)

    return fit


def _pack_block(block: Block, fit: _Fit) -> PackedLayer:
    attention = block.attention
    projections = (attention.q, attention.k, attention.v)
    norms = (attention.q_norm, attention.k_norm)
    q_norm, k_norm = (None if norm is None else norm.weight.detach().float() for norm in norms)
    return PackedLayer(
        qkv=fit([p.weight for p in projections], [p.bias for p in projections]),
        o=fit([attention.o.weight], [attention.o.bias]),
        feed=_pack_feed(block.feed_forward, fit),
        attention_norm=block.attention_norm.weight.detach().float(),
        feed_norm=block.feed_forward_norm.weight.detach().float(),
        q_norm=q_norm,
        k_norm=k_norm,
    )


def _pack_feed(feed: nn.Module, fit: _Fit) -> PackedFeed | PackedExperts:
    if isinstance(feed, FeedForward):
        gate_up = fit(gates_and_values(feed.gate.weight, feed.up.weight), ())
        return PackedFeed(gate_up, fit([feed.down.weight], ()))
    assert isinstance(feed, SparseFeedForward)
    router, stack = feed.router, feed.experts
    experts = tuple(
        PackedFeed(fit(gates_and_values(gate, up), ()), fit([down], ()))
        for gate, up, down in zip(stack.gate, stack.up, stack.down, strict=True)
    )
    return PackedExperts(pack([router.weight], Format.FLOAT32), experts, router.chosen, router.normalised)

"""Tensor parallel: the matrices of a layer are cut over ranks, and the positions between them.

After Megatron-LM (arXiv:1909.08053) with sequence parallel (arXiv:2205.05198): q, k, v, gate and up are cut
by output features, o and down by input features, the vocabulary by tokens. Norms and residuals see this
rank's positions only. Parameters are DTensors, so that FSDP2, checkpoints and optimisers know what each
rank holds; forward passes work on local tensors with collectives of their own
(:mod:`weft.parallel.sequence`).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from weft.models import Decoder
from weft.models.layers import Attention, Block, FeedForward, Linear, RMSNorm
from weft.models.sharding import Cut, cut
from weft.ops.linear import Product, linear
from weft.ops.local import local
from weft.parallel import expert
from weft.parallel.data import sum_gradients
from weft.parallel.mesh import Mesh
from weft.parallel.plan import Plan
from weft.parallel.sequence import Line, gather_sequence, scatter_sequence
from weft.parallel.vocabulary import VocabularyEmbedding, VocabularyOutput

PLACEMENTS: dict[Cut, Placement] = {
    "columns": Shard(0),
    "rows": Shard(1),
    "vocabulary": Shard(0),
    "copied": Replicate(),
}


def apply(model: Decoder, plan: Plan, mesh: Mesh) -> None:
    """Cut ``model``, a whole one or a stage of it, over the tp line; nothing where that has one rank.

    Every rank must hold the same weights, or weights on the meta device: nothing is sent.
    A feed-forward of another kind than :class:`FeedForward` (a mixture of experts) stays as it is, with
    copied weights: each rank gives it its own positions.
    """
    if plan.tp == 1:
        return
    grid = mesh.line("tp")
    line = Line.of(grid)
    _distribute(model, grid, plan)
    for block in model.blocks.children():
        assert isinstance(block, Block)
        _cut_block(block, line)
    if model.embedding is not None:
        model.embedding = VocabularyEmbedding(model.embedding.weight, line)  # type: ignore[assignment]
    if model.output is not None:
        model.output = VocabularyOutput(model.output.weight, line)  # type: ignore[assignment]


def sum_copied(parameters: Iterable[nn.Parameter], mesh: Mesh) -> None:
    """Sum the gradients of weights that every tp rank holds whole: each saw its positions or heads."""
    held = [p for p in parameters if isinstance(p, DTensor) and _on_line(p) == Replicate()]
    sum_gradients(held, mesh.group("tp"))


def _on_line(parameter: DTensor) -> Placement | None:
    names = parameter.device_mesh.mesh_dim_names or ()
    return parameter.placements[names.index("tp")] if "tp" in names else None


class GatheringNorm(RMSNorm):
    """A norm of this rank's positions whose result is gathered: what cut matrices read."""

    def __init__(self, norm: RMSNorm, line: Line):
        nn.Module.__init__(self)
        self.weight, self.eps, self.line = norm.weight, norm.eps, line

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, E] -> [B, T, E]."""
        return gather_sequence(super().forward(x), self.line)


class RowLinear(nn.Module):
    """A matrix cut by input features; the sum over ranks is cut along the sequence."""

    bias: nn.Parameter | None
    product: Product = staticmethod(linear)

    def __init__(self, whole: Linear, line: Line):
        super().__init__()
        self.weight, self.line = whole.weight, line
        self.register_parameter("bias", whole.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in / K] -> [B, S, out]."""
        out = scatter_sequence(self.product(x, local(self.weight), None), self.line)
        return out if self.bias is None else out + local(self.bias).to(out.dtype)


def _cut_block(block: Block, line: Line) -> None:
    attention: Attention = block.attention
    attention.heads //= line.size
    attention.groups //= line.size
    attention.o = RowLinear(attention.o, line)  # type: ignore[assignment]
    block.attention_norm = GatheringNorm(block.attention_norm, line)
    if isinstance(block.feed_forward, FeedForward):
        block.feed_forward.down = RowLinear(block.feed_forward.down, line)  # type: ignore[assignment]
        block.feed_forward_norm = GatheringNorm(block.feed_forward_norm, line)


def _distribute(model: nn.Module, grid: DeviceMesh, plan: Plan) -> None:
    """Every parameter as a DTensor on ``grid``; one that has several names stays one.

    Experts that will be spread over other ranks are left to :mod:`weft.parallel.expert`.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}
    made |= {p: p for stack in expert.spread(model, plan) for p in stack.parameters()}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if parameter not in made:
            part = _part(parameter.detach(), PLACEMENTS[cut(name)], grid)
            made[parameter] = nn.Parameter(part, requires_grad=parameter.requires_grad)
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, made[parameter])


def _part(whole: Tensor, placement: Placement, grid: DeviceMesh) -> Tensor:
    own = whole
    if isinstance(placement, Shard):
        # A copy, so that the whole can be freed.
        own = whole.chunk(grid.size(), placement.dim)[grid.get_local_rank()].clone()
    return DTensor.from_local(
        own.contiguous(), grid, [placement], run_check=False, shape=whole.shape, stride=whole.stride()
    )

"""A mixture of experts in place of a block's feed-forward, as Qwen3-MoE has it (arXiv:2505.09388).

Dimensions: B batch rows, T positions, N = B * T tokens, E model width, X experts, K experts a token, F
feed-forward width of an expert, M = N * K rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from weft.models.config import DecoderConfig
from weft.ops.experts import Order, expert_rows, load, weighted_sum
from weft.ops.linear import linear
from weft.ops.local import local


class Router(nn.Module):
    """Scores the experts and picks the best K, in fp32 whatever the dtype of the input.

    ``bias`` fp32 [X] is added to the scores for the choice alone, and only in training mode: it steers the
    load (see :mod:`weft.train.balance`), and the stock architecture has none. ``load`` int64 [X] counts
    the rows sent to each expert by passes with gradients. (Blocks that are computed again in the backward
    pass count every row twice; only shares of the load are used.)
    """

    bias: Tensor
    load: Tensor

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.chosen, self.normalised = config.num_experts_per_tok, config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        nn.init.normal_(self.weight, std=config.initializer_range)
        self.register_buffer("bias", torch.zeros(config.num_experts))
        self.register_buffer("load", torch.zeros(config.num_experts, dtype=torch.int64), persistent=False)

    def reset(self, device: torch.device | str) -> None:
        """No bias and no load, on ``device``."""
        self.bias = torch.zeros(self.bias.shape, device=device)
        self.load = torch.zeros(self.load.shape, dtype=torch.int64, device=device)

    def forward(self, x_NE: Tensor) -> tuple[Tensor, Tensor]:
        """[N, E] -> the experts of each token, int64 [N, K], best first, and their shares, fp32 [N, K]."""
        scores_NX = linear(x_NE.float(), local(self.weight), None).softmax(-1)
        steered_NX = scores_NX + self.bias if self.training else scores_NX
        index_NK = steered_NX.topk(self.chosen, dim=-1).indices
        share_NK = scores_NX.gather(-1, index_NK)
        if self.normalised:
            share_NK = share_NK / share_NK.sum(-1, keepdim=True)
        return index_NK, share_NK


class Experts(nn.Module):
    """The feed-forwards of all experts as three stacked tensors, which are cut along the first dimension.

    ``place`` says where they compute; it gets the rows sorted by expert, their counts and this module.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        many, inner, width = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.gate = nn.Parameter(torch.empty(many, inner, width))
        self.up = nn.Parameter(torch.empty(many, inner, width))
        self.down = nn.Parameter(torch.empty(many, width, inner))
        for weight in (self.gate, self.up, self.down):
            nn.init.normal_(weight, std=config.initializer_range)
        self.place: Place = here

    def forward(self, rows_ME: Tensor, counts_X: Tensor) -> Tensor:
        """[M, E] sorted by expert -> [M, E]."""
        return self.place(rows_ME, counts_X, self)


Place = Callable[[Tensor, Tensor, Experts], Tensor]


def here(rows_ME: Tensor, counts_X: Tensor, experts: Experts) -> Tensor:
    """All experts are in this process."""
    return expert_rows(rows_ME, counts_X, *map(local, (experts.gate, experts.up, experts.down)))


class SparseFeedForward(nn.Module):
    """For each token the weighted sum of the SwiGLU feed-forwards of its K experts."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.router = Router(config)
        self.experts = Experts(config)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        x_NE = x_BTE.flatten(0, 1)
        index_NK, share_NK = self.router(x_NE)
        counts_X = load(index_NK, self.router.load.numel())
        if self.training and torch.is_grad_enabled():
            self.router.load += counts_X
        order = Order(index_NK)
        rows_ME: Tensor = self.experts(order.sort(x_NE), counts_X)
        return weighted_sum(order.unsort(rows_ME), share_NK).view_as(x_BTE)


def routers(model: nn.Module) -> dict[str, Router]:
    """Every router of the model by its name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Router)}


def stacks(model: nn.Module) -> Iterator[Experts]:
    """Every stack of experts of the model."""
    return (module for module in model.modules() if isinstance(module, Experts))

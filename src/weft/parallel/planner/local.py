"""What one rank holds and computes under a plan: sizes, counted by hand from the decoder's shape.

Letters: N positions of a micro-batch on this rank (rows * length / cp), n those along which norms run
(N / tp: sequence parallel), E model width, F feed-forward width, H query heads, G key heads, D head size,
V vocabulary; F, H, G and V are this rank's share under tp.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from weft.models.config import DecoderConfig
from weft.parallel.cuts import cut
from weft.parallel.plan import Plan
from weft.parallel.planner.job import Job

_cut = functools.cache(cut)


@dataclass(frozen=True)
class Local:
    """One rank's share of a block and of the whole model."""

    job: Job
    plan: Plan
    micro_rows: int

    @property
    def config(self) -> DecoderConfig:
        """The whole model's shape."""
        return self.job.config

    @functools.cached_property
    def N(self) -> int:
        """Positions of a micro-batch on this rank."""
        return self.micro_rows * self.job.length // self.plan.cp

    @functools.cached_property
    def n(self) -> int:
        """Positions between the tensor-parallel regions."""
        return self.N // self.plan.tp

    @functools.cached_property
    def heads(self) -> int:
        """Query heads of this rank."""
        return self.config.num_attention_heads // self.plan.tp

    @functools.cached_property
    def groups(self) -> int:
        """Key heads of this rank."""
        return self.config.num_key_value_heads // self.plan.tp

    @functools.cached_property
    def inner(self) -> int:
        """Feed-forward width of this rank."""
        return self.config.intermediate_size // self.plan.tp

    @functools.cached_property
    def vocabulary(self) -> int:
        """Rows of the embedding and output matrices on this rank."""
        return self.config.vocab_size // self.plan.tp

    @functools.cached_property
    def micros(self) -> int:
        """Micro-batches of a step on this rank."""
        return max(1, self.job.rows // self.plan.data_ranks // self.micro_rows)

    @functools.cached_property
    def stages(self) -> tuple[int, ...]:
        """Blocks of every pipeline stage."""
        return tuple(len(layers) for layers in _cut(self.config, self.plan.stages))

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Stage numbers of one pipeline rank."""
        return tuple(range(rank, self.plan.stages, self.plan.pp))

    @property
    def shards(self) -> int:
        """Ranks that matrices, their gradients and optimiser state are cut over, beside tp and pp: under
        fsdp also those of cp."""
        return self.plan.fsdp * self.plan.cp if self.plan.fsdp > 1 else 1

    def vectors(self, stage: int) -> int:
        """Parameters of a stage that no technique cuts: norms and biases."""
        last = stage == self.plan.stages - 1
        return self.stages[stage] * self.block_vectors + (self.config.hidden_size if last else 0)

    def held(self, stage: int) -> float:
        """Parameters of a stage whose masters this rank keeps."""
        whole, experts = self.vectors(stage), self.stages[stage] * self.experts
        cut = self.parameters(stage) - whole - experts
        return cut / self.shards + whole + experts / self.expert_shards

    @functools.cached_property
    def block_matrices(self) -> int:
        """Matrix parameters of a block on this rank before fsdp, the mean over blocks of two kinds."""
        return self._attention // self.plan.tp + self.feed_matrices

    @functools.cached_property
    def _attention(self) -> int:
        return self.config.block_matrices - 3 * self.config.hidden_size * self.config.intermediate_size

    @functools.cached_property
    def sparse(self) -> float:
        """Share of the blocks that have experts."""
        return self.config.sparse_layers / self.config.num_hidden_layers

    @functools.cached_property
    def feed_matrices(self) -> int:
        """Parameters of a block's feed-forward on this rank: columns under tp, experts under ep, a router."""
        dense = 3.0 * self.config.hidden_size * self.inner
        router = self.config.num_experts * self.config.hidden_size
        return round((1 - self.sparse) * dense + self.sparse * router + self.experts)

    @functools.cached_property
    def experts(self) -> float:
        """Parameters of a block's experts on this rank before fsdp; tp does not cut them."""
        if not self.sparse:
            return 0.0
        return self.sparse * self.config.num_experts / self.plan.ep * self.config.expert_parameters

    @property
    def expert_shards(self) -> int:
        """Ranks that experts are cut over beside ep: under ep all that hold the same ones."""
        if self.plan.ep == 1 or self.plan.fsdp == 1:
            return self.shards
        return self.plan.data_ranks // self.plan.ep * self.plan.cp * self.plan.tp

    @functools.cached_property
    def routed(self) -> float:
        """Rows that this rank's experts compute on, at an even load: each tp rank routes its own."""
        return self.sparse * self.n * self.config.num_experts_per_tok

    @functools.cached_property
    def gated(self) -> float:
        """Numbers of a block's gate activations on this rank."""
        dense = (1 - self.sparse) * self.N * self.inner
        return dense + self.routed * self.config.moe_intermediate_size

    @functools.cached_property
    def block_vectors(self) -> int:
        """The other parameters of a block; norms are on every tp rank."""
        return self.config.block_parameters - self.config.block_matrices

    def parameters(self, stage: int) -> int:
        """Parameters of a stage on this rank before fsdp; ends hold the embedding and the output matrix.

        A tied matrix is on both ends of a pipeline.
        """
        first, last = stage == 0, stage == self.plan.stages - 1
        ends = int(first) + int(last) - int(first and last and self.config.tie_word_embeddings)
        matrix = self.vocabulary * self.config.hidden_size
        norm = self.config.hidden_size if last else 0
        return self.stages[stage] * (self.block_matrices + self.block_vectors) + ends * matrix + norm

    def products(self) -> tuple[tuple[int, int, int], ...]:
        """(rows, inputs, outputs) of the seven matrix products of a block, and of a router's."""
        E, D = self.config.hidden_size, self.config.head_dim
        q, kv = self.heads * D, self.groups * D
        attention: tuple[tuple[int, int, int], ...] = (
            (self.N, E, q),
            (self.N, E, kv),
            (self.N, E, kv),
            (self.N, q, E),
        )
        rows, inner = self.N, self.inner
        if self.sparse:
            # The experts' products as one, and the router's.
            inner = self.config.moe_intermediate_size
            rows = max(1, round(self.gated / inner))
            attention = (*attention, (self.n, E, self.config.num_experts))
        return (*attention, (rows, E, inner), (rows, E, inner), (rows, inner, E))

    @functools.cached_property
    def attention_flops(self) -> float:
        """Forward attention of a block: two products per visible pair, 4 D operations each.

        A position sees half of its document on average; context parallel shares pairs evenly.
        """
        seen = min(self.job.document or self.job.length, self.job.length) / 2
        if self.config.sliding_window:
            seen = min(seen, self.config.sliding_window)
        return 4.0 * self.N * seen * self.heads * self.config.head_dim

"""How the blocks of a decoder are cut into pipeline stages. Pure: the planner asks too."""

from __future__ import annotations

from weft.core.errors import ConfigError
from weft.models.config import DecoderConfig


def cut(config: DecoderConfig, stages: int) -> list[range]:
    """The block numbers of every stage, in order; each has at least one.

    The slowest stage is made as fast as can be, counting matrix products: blocks all cost the same, the
    last stage has the output matrix beside its blocks, and the embedding is a look-up that costs nothing.
    What does not come out even goes to later stages, since earlier ones keep more micro-batches alive.
    ConfigError when there are more stages than blocks.
    """
    blocks = config.num_hidden_layers
    if not 1 <= stages <= blocks:
        raise ConfigError(
            f"{blocks} blocks cannot be cut into {stages} stages; "
            f"set parallel.pp * parallel.stages_per_rank to at most {blocks}."
        )
    if stages == 1:
        return [range(blocks)]
    output = 6.0 * config.vocab_size * config.hidden_size
    extra = output / ((config.flops_per_token(0) - output) / blocks)

    def slowest(last: int) -> float:
        return max(-(-(blocks - last) // (stages - 1)), last + extra)

    last = min(range(blocks - stages + 1, 0, -1), key=slowest)
    short, longer = divmod(blocks - last, stages - 1)
    sizes = [short + (stage >= stages - 1 - longer) for stage in range(stages - 1)] + [last]
    starts = [sum(sizes[:stage]) for stage in range(stages)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]

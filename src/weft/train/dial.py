"""The one dial: from a time budget to size, tokens, batch, learning rate, each with its reason."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from weft.checkpoint.kinds import Config
from weft.core.config import duration
from weft.core.errors import TrainingError
from weft.models import DecoderConfig
from weft.models.baseline_config import BaselineConfig
from weft.models.encdec_config import EncoderDecoderConfig
from weft.models.encoder_config import EncoderConfig
from weft.models.families import FAMILIES
from weft.models.presets import LADDER, expert_width, feed_forward
from weft.train.calibrate import Speed
from weft.train.config import ModelSection, TrainRun

CALIBRATION_SHARE = 0.05
"""At most this share of the budget goes into measuring."""
RESERVE_SHARE = 0.04
"""Kept back for checkpoints, validation and the machine's moods."""
MICRO_POSITIONS = 16384
"""Positions whose activations are alive at a time; larger batches are accumulated."""
LEAST_STEPS = 20
"""A schedule with fewer steps teaches nothing."""


@dataclass(frozen=True)
class Derived:
    """One value that followed from the budget, and why."""

    name: str
    value: object
    reason: str


def foretold_loss(parameters: int, tokens: float, unique_tokens: int) -> float:
    """Nats a token by the scaling law of Hoffmann et al. (arXiv:2203.15556, approach 3).

    Repeated tokens count less, as in Muennighoff et al. (arXiv:2305.16264): U + U R (1 - exp(-(e-1)/R))
    for e epochs of U tokens, R = 15. Only the order of sizes is taken from it, never the value.
    """
    repeats = max(tokens / unique_tokens - 1, 0.0)
    effective = min(tokens, unique_tokens) + unique_tokens * 15.0 * (1 - math.exp(-repeats / 15.0))
    return float(1.69 + 406.4 / parameters**0.34 + 410.7 / effective**0.28)


def batch_tokens(tokens: float, sequence_length: int) -> int:
    """Positions of a step: 4,096 for 4 M training tokens, growing with tokens^0.4, whole power-of-two rows.

    The exponent is that of the critical batch size in arXiv:2505.13738; the base is a choice that trained
    well (docs/experiments.md).
    """
    wanted = 4096 * (tokens / 4e6) ** 0.4
    rows: int = max(1, 2 ** round(math.log2(max(wanted / sequence_length, 1))))
    return rows * sequence_length


def learning_rate(width: int) -> float:
    """Peak rate for matrices: 0.01 at width 192, falling with width^-0.5 (docs/experiments.md)."""
    return float(0.01 * (192 / width) ** 0.5)


def sizes(run: TrainRun, vocab_size: int) -> list[DecoderConfig]:
    """The decoders to choose from: the ladder, or the one that the run file fixes."""
    length, section = run.data.sequence_length, run.model
    ladder = [
        size.config(vocab_size, length, section.architecture, mixture(section, feed_forward(size.width)))
        for size in LADDER
    ]
    fixed = fixed_size(run.model, vocab_size, run.data.sequence_length)
    return [fixed] if fixed else ladder


def fixed_size(section: ModelSection, vocab_size: int, context: int) -> DecoderConfig | None:
    """The decoder whose width the run file gives; unset parts follow the width. None without a width."""
    if section.hidden_size is None:
        return None
    nearest = min(LADDER, key=lambda size: abs(size.width - (section.hidden_size or 0)))
    width, head_dim = section.hidden_size, section.head_dim or nearest.head_dim
    heads = section.num_attention_heads or max(1, width // head_dim)
    dense = section.intermediate_size or feed_forward(width)
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=dense,
        num_hidden_layers=section.num_hidden_layers or nearest.layers,
        num_attention_heads=heads,
        num_key_value_heads=section.num_key_value_heads or heads,
        head_dim=head_dim,
        architecture=section.architecture,
        max_position_embeddings=context,
        rope_theta=section.rope_theta,
        tie_word_embeddings=section.tie_word_embeddings,
        qk_norm=section.architecture.startswith("Qwen3"),
        attention_bias=section.architecture.startswith("Qwen2"),
        **mixture(section, dense),
    )


def mixture(section: ModelSection, dense: int) -> dict[str, Any]:
    """The fields of DecoderConfig about experts; what is unset follows from the width of a ``dense`` layer.

    Without more to go by 2 of 8 experts do the work of the dense layer (as in Mixtral, arXiv:2401.04088).
    """
    family = FAMILIES.get(section.architecture)
    if family is None or not family.experts:
        return {} if section.num_experts is None else {"num_experts": section.num_experts}
    chosen = 2 if section.num_experts_per_tok is None else section.num_experts_per_tok
    width = section.moe_intermediate_size
    return {
        "num_experts": 8 if section.num_experts is None else section.num_experts,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": expert_width(dense, max(chosen, 1)) if width is None else width,
        "norm_topk_prob": section.norm_topk_prob,
        "decoder_sparse_step": section.decoder_sparse_step,
        "mlp_only_layers": section.mlp_only_layers,
    }


def derive(run: TrainRun, choices: list[Config], speed: Speed, unique_tokens: int) -> list[Derived]:
    """Size, steps, batch and rates for the budget. Raises TrainingError when the budget is too short."""
    assert run.train.budget is not None
    budget = duration(run.train.budget)
    seconds = budget * (1 - RESERVE_SHARE) - speed.seconds
    context = run.data.sequence_length
    plans = [_Plan.fit(config, speed, seconds, context, run.train.batch_tokens) for config in choices]
    able = [plan for plan in plans if plan.steps >= LEAST_STEPS]
    if not able:
        needed = min(plan.step_seconds for plan in plans) * LEAST_STEPS * 1.15 + speed.seconds
        raise TrainingError(
            f"A budget of {run.train.budget} is too short for this machine: the smallest model needs about "
            f"{math.ceil(needed)}s for {LEAST_STEPS} steps; give more, or set data.sequence_length lower."
        )
    # Of a mixture of experts the active parameters count: a law for its total has no agreed form.
    best = min(able, key=lambda p: foretold_loss(p.config.active_parameters, p.tokens, unique_tokens))
    return _explain(best, run, budget, speed, unique_tokens, len(able))


def defaults(run: TrainRun, config: Config, rows: int) -> list[Derived]:
    """What a run with fixed ``train.steps`` or ``train.epochs`` over ``rows`` rows leaves unset."""
    batch = run.train.batch_tokens or batch_tokens(4e6, run.data.sequence_length)
    steps, length = run.train.steps, []
    if steps is None:
        assert run.train.epochs is not None
        steps = max(1, math.ceil(run.train.epochs * rows / max(1, batch // run.data.sequence_length)))
        reason = f"{run.train.epochs:g} epochs of {rows:,} rows"
        length = [Derived("train.steps", steps, reason)]
    return [*_shape(config, "the smallest rung of the ladder"), *length, *_pace(run, config, batch, steps)]


def settle(run: TrainRun, derived: list[Derived]) -> list[Derived]:
    """Each name once, with the user's own value where there is one."""
    settled: dict[str, Derived] = {}
    for item in derived:
        section, _, key = item.name.partition(".")
        asked = getattr(getattr(run, section), key)
        kept = item if asked is None else Derived(item.name, asked, "set by the run")
        settled.setdefault(item.name, kept)
    return list(settled.values())


def apply(run: TrainRun, derived: list[Derived]) -> TrainRun:
    """The run with every derived value written into it; what the user set stays."""
    for item in derived:
        section_name, _, key = item.name.partition(".")
        section = getattr(run, section_name)
        if getattr(section, key, None) is None:
            run = dataclasses.replace(
                run, **{section_name: dataclasses.replace(section, **{key: item.value})}
            )
    return run


@dataclass(frozen=True)
class _Plan:
    config: Config
    batch: int
    steps: int
    step_seconds: float

    @property
    def tokens(self) -> int:
        return self.batch * self.steps

    @staticmethod
    def fit(config: Config, speed: Speed, seconds: float, context: int, batch: int | None) -> _Plan:
        size = batch or context
        for _ in range(3):
            # The batch depends on the tokens, and the tokens (through the update's cost) on the batch.
            step_seconds = speed.step_seconds(config, size, context)
            tokens = max(seconds, 0.0) / step_seconds * size
            size = batch or batch_tokens(max(tokens, 1.0), context)
        step_seconds = speed.step_seconds(config, size, context)
        return _Plan(config, size, int(max(seconds, 0.0) / step_seconds), step_seconds)


def _explain(
    plan: _Plan, run: TrainRun, budget: float, speed: Speed, unique: int, choices: int
) -> list[Derived]:
    config = plan.config
    measured = ", ".join(f"{m.rate / 1e9:,.0f} GFLOP/s at width {m.width}" for m in speed.measurements)
    size = (
        f"least foretold loss of {choices} sizes for {plan.tokens / 1e6:.1f} M tokens "
        f"({config.parameters / 1e6:.1f} M parameters, {plan.tokens / config.parameters:.0f} tokens each)"
        if choices > 1
        else "fixed by the run file"
    )
    minute = max(1, round(60 / plan.step_seconds))
    length = Derived(
        "train.steps",
        plan.steps,
        f"{plan.steps * plan.step_seconds:.0f} s of {budget:.0f} s at {plan.step_seconds:.2f} s a step "
        f"({measured}); {plan.tokens / unique:.1f} epochs of {unique / 1e6:.1f} M tokens",
    )
    save = Derived("train.save_steps", minute, "about one minute of work is lost at most")
    return [*_shape(config, size), length, save, *_pace(run, config, plan.batch, plan.steps)]


def _shape(config: Config, reason: str) -> list[Derived]:
    if not isinstance(config, DecoderConfig):
        return _other_shape(config)
    experts = [
        Derived("model.num_experts", config.num_experts, "feed-forwards of a block"),
        Derived("model.num_experts_per_tok", config.num_experts_per_tok, "of these a token takes"),
        Derived("model.moe_intermediate_size", config.moe_intermediate_size, "they do a dense layer's work"),
    ]
    return [
        *(experts if config.num_experts else ()),
        Derived("model.hidden_size", config.hidden_size, reason),
        Derived("model.num_hidden_layers", config.num_hidden_layers, "the ladder's depth for this width"),
        Derived("model.num_attention_heads", config.num_attention_heads, f"heads of {config.head_dim}"),
        Derived("model.head_dim", config.head_dim, "the ladder's head size for this width"),
        Derived("model.intermediate_size", config.intermediate_size, "8/3 of the width, in 64s"),
    ]


def _other_shape(config: EncoderConfig | EncoderDecoderConfig | BaselineConfig) -> list[Derived]:
    if isinstance(config, BaselineConfig):
        reason = "the default of its kind, or the checkpoint's"
        return [
            Derived("model.hidden_size", config.hidden_size, reason),
            Derived("model.num_hidden_layers", config.num_hidden_layers, reason),
        ]
    if isinstance(config, EncoderConfig):
        layers, heads, inner = config.num_hidden_layers, config.num_attention_heads, config.intermediate_size
    else:
        layers, heads, inner = config.num_layers, config.num_heads, config.d_ff
    return [
        Derived("model.hidden_size", config.hidden_size, "the default of its kind, or the checkpoint's"),
        Derived("model.num_hidden_layers", layers, "the default of its kind, or the checkpoint's"),
        Derived("model.num_attention_heads", heads, f"heads of {config.hidden_size // heads}"),
        Derived("model.intermediate_size", inner, "8/3 of the width, in 64s"),
    ]


def _pace(run: TrainRun, config: Config, batch: int, steps: int) -> list[Derived]:
    context = run.data.sequence_length
    rate = round(learning_rate(config.hidden_size), 6)
    micro = max(1, min(batch, MICRO_POSITIONS) // context)
    return [
        Derived("train.batch_tokens", batch, "4,096 at 4 M tokens, growing with tokens^0.4"),
        Derived("optimizer.learning_rate", rate, "0.01 at width 192, falling with width^-0.5"),
        Derived("optimizer.warmup_steps", min(100, max(1, steps // 20)), "5 % of the steps, at most 100"),
        Derived("train.save_steps", max(1, steps // 10), "ten checkpoints a run"),
        Derived("train.validate_steps", max(1, steps // 8), "eight looks at the validation split"),
        Derived("train.micro_rows", micro, f"{MICRO_POSITIONS:,} positions at a time bound the memory"),
    ]

"""What the stock families can and cannot express, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One architecture as ``transformers`` defines it; None means that a checkpoint may choose.

    ``output_bias`` says whether biases on q, k and v come with one on the attention's output matrix,
    ``experts`` whether layers have a mixture of experts in place of one feed-forward.
    """

    model_type: str
    qk_norm: bool
    attention_bias: bool | None
    output_bias: bool
    sliding_window: bool
    experts: bool = False


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(
        "llama", qk_norm=False, attention_bias=None, output_bias=True, sliding_window=False
    ),
    "MistralForCausalLM": Family(
        "mistral", qk_norm=False, attention_bias=False, output_bias=False, sliding_window=True
    ),
    "Qwen2ForCausalLM": Family(
        "qwen2", qk_norm=False, attention_bias=True, output_bias=False, sliding_window=True
    ),
    "Qwen3ForCausalLM": Family(
        "qwen3", qk_norm=True, attention_bias=None, output_bias=True, sliding_window=True
    ),
    "Qwen3MoeForCausalLM": Family(
        "qwen3_moe", qk_norm=True, attention_bias=None, output_bias=True, sliding_window=True, experts=True
    ),
}
"""By the name that a config.json gives under ``architectures``."""

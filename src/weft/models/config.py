"""The shape of a decoder, in Hugging Face's own field names, so that a config.json needs no translation."""

from __future__ import annotations

from dataclasses import dataclass

from weft.core.errors import ConfigError


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's frequency-dependent scaling of rotary embeddings (arXiv:2407.21783, section 3.2)."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    rope_type: str = "llama3"


@dataclass(frozen=True)
class DecoderConfig:
    """A pre-norm decoder with grouped-query attention, rotary positions and a SwiGLU feed-forward.

    One class covers four stock families; what tells them apart is ``qk_norm`` (Qwen3),
    ``attention_bias`` (Qwen2: biases on q, k, v only) and ``sliding_window`` (Mistral).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    architecture: str = "Qwen3ForCausalLM"
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    qk_norm: bool = True
    attention_bias: bool = False
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads = {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads = {self.num_key_value_heads}; each key head serves a whole group."
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim = {self.head_dim} is odd; rotary positions turn pairs of numbers.")
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1.")

    @property
    def parameters(self) -> int:
        """All parameters, a tied output matrix counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.block_parameters * self.num_hidden_layers + self.hidden_size

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        attention = self.hidden_size * self.head_dim * (2 * heads + 2 * groups)
        bias = self.head_dim * (heads + 2 * groups) if self.attention_bias else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return attention + bias + norms + 3 * self.hidden_size * self.intermediate_size

    def flops_per_token(self, context: int) -> float:
        """Matrix floating-point operations of a training step per token, at mean causal context.

        6 per matrix parameter (the output matrix counts, the input look-up does not), and
        12 * layers * heads * head_dim * context / 2 for attention (PaLM, arXiv:2204.02311, appendix B,
        halved because a causal row sees half the context on average). Norms are not counted.
        """
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        matrices = (self.block_parameters - norms) * self.num_hidden_layers
        attention = 6 * self.num_hidden_layers * self.num_attention_heads * self.head_dim * context
        return 6.0 * (matrices + self.vocab_size * self.hidden_size) + attention

"""The shape of a decoder, in Hugging Face's own field names, so that a config.json needs no translation."""

from __future__ import annotations

from dataclasses import dataclass

from weft.core.errors import ConfigError
from weft.core.registry import lookup
from weft.models.families import FAMILIES


@dataclass(frozen=True)
class RopeScaling:
    """How rotary embeddings are stretched to a longer context.

    ``linear`` divides every frequency by ``factor`` (arXiv:2306.15595) and ignores the other numbers;
    ``llama3`` divides only the slow ones (arXiv:2407.21783, section 3.2).
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    rope_type: str = "llama3"

    def __post_init__(self) -> None:
        if self.rope_type not in ("llama3", "linear"):
            raise ConfigError(
                f"RoPE scaling of type {self.rope_type!r} is not supported; llama3 and linear are."
            )
        if not 0 < self.factor < float("inf"):
            raise ConfigError(f"factor = {self.factor} of the RoPE scaling must be a positive number.")
        if self.rope_type == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ConfigError(
                f"low_freq_factor = {self.low_freq_factor} and high_freq_factor = {self.high_freq_factor} of "
                "the RoPE scaling must be positive and in this order."
            )


@dataclass(frozen=True)
class DecoderConfig:
    """A pre-norm decoder with grouped-query attention, rotary positions and a SwiGLU feed-forward.

    One class covers five stock families; what tells them apart is ``qk_norm`` (Qwen3),
    ``attention_bias`` (Qwen2: on q, k and v; Llama and Qwen3, where it is an option: on o as well),
    ``sliding_window`` (Mistral) and ``num_experts`` (Qwen3-MoE; 0 elsewhere): its layers that are
    :meth:`sparse` have that many feed-forwards of width ``moe_intermediate_size`` and send each token to
    ``num_experts_per_tok`` of them. What ``architecture`` cannot express is refused here, before a model
    is trained that no other program opens.
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
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "sliding_window",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value} must be at least 1.")
        for name in ("rope_theta", "rms_norm_eps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)} must be a positive number.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads = {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads = {self.num_key_value_heads}; each key head serves a whole group."
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim = {self.head_dim} is odd; rotary positions turn pairs of numbers.")
        self._check_family()
        self._check_experts()

    def _check_family(self) -> None:
        family = lookup(FAMILIES, self.architecture, "architecture")
        for name, fixed in (("qk_norm", family.qk_norm), ("attention_bias", family.attention_bias)):
            if fixed is not None and getattr(self, name) != fixed:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} does not fit architecture = {self.architecture!r}, "
                    f"where it is always {fixed}; set it so, or choose another architecture."
                )
        if self.sliding_window is not None and not family.sliding_window:
            raise ConfigError(
                f"sliding_window = {self.sliding_window} does not fit architecture = {self.architecture!r}, "
                "which always attends to everything before; leave it out, or choose MistralForCausalLM."
            )

    def _check_experts(self) -> None:
        if not FAMILIES[self.architecture].experts:
            if self.num_experts:
                raise ConfigError(
                    f"num_experts = {self.num_experts} does not fit architecture = {self.architecture!r}, "
                    "which has one feed-forward a layer; leave it out, or choose Qwen3MoeForCausalLM."
                )
            return
        for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} must be at least 1 for architecture = "
                    f"{self.architecture!r}."
                )
        if self.num_experts_per_tok > self.num_experts:
            raise ConfigError(
                f"num_experts_per_tok = {self.num_experts_per_tok} is more than num_experts = "
                f"{self.num_experts}; a token can go to each expert once."
            )

    def sparse(self, layer: int) -> bool:
        """Whether block ``layer`` (from 0) has experts in place of one feed-forward."""
        chosen = layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0
        return self.num_experts > 0 and chosen

    @property
    def sparse_layers(self) -> int:
        """Number of blocks with experts."""
        return sum(map(self.sparse, range(self.num_hidden_layers)))

    @property
    def output_bias(self) -> bool:
        """Whether the attention's output matrix has a bias too."""
        return self.attention_bias and FAMILIES[self.architecture].output_bias

    @property
    def parameters(self) -> int:
        """All parameters, a tied output matrix counted once."""
        return self._parameters(self.num_experts)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: of the experts only the chosen ones."""
        return self._parameters(self.num_experts_per_tok)

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert of one block."""
        return 3 * self.hidden_size * self.moe_intermediate_size

    def _parameters(self, experts: int) -> int:
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        blocks = sum(self.layer_parameters(layer, experts) for layer in range(self.num_hidden_layers))
        return embeddings + blocks + self.hidden_size

    @property
    def block_matrices(self) -> int:
        """Parameters of the seven matrices of one block without experts."""
        return self._attention_matrices + 3 * self.hidden_size * self.intermediate_size

    @property
    def block_parameters(self) -> int:
        """Parameters of one block without experts."""
        return self.block_matrices + self._block_vectors

    def layer_matrices(self, layer: int, experts: int | None = None) -> int:
        """Parameters of the matrices of block ``layer``; of its experts ``experts`` count, by default all.

        The router counts whole: it scores every expert.
        """
        if not self.sparse(layer):
            return self.block_matrices
        counted = self.num_experts if experts is None else experts
        router = self.num_experts * self.hidden_size
        return self._attention_matrices + counted * self.expert_parameters + router

    def layer_parameters(self, layer: int, experts: int | None = None) -> int:
        """Parameters of block ``layer``, its experts counted as in :meth:`layer_matrices`."""
        return self.layer_matrices(layer, experts) + self._block_vectors

    @property
    def _attention_matrices(self) -> int:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        return self.hidden_size * self.head_dim * (2 * heads + 2 * groups)

    @property
    def _block_vectors(self) -> int:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        bias = self.head_dim * (heads + 2 * groups) if self.attention_bias else 0
        bias += self.hidden_size if self.output_bias else 0
        return 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0) + bias

    def flops_per_token(self, context: int) -> float:
        """Matrix floating-point operations of a training step per token, at mean causal context.

        6 per matrix parameter that a token meets (the output matrix counts, the input look-up does not, of
        the experts only the chosen ones), and 12 * layers * heads * head_dim * context / 2 for attention
        (PaLM, arXiv:2204.02311, appendix B, halved because a causal row sees half the context on average).
        Norms and biases are not counted.
        """
        layers = range(self.num_hidden_layers)
        matrices = sum(self.layer_matrices(layer, self.num_experts_per_tok) for layer in layers)
        attention = 6 * self.num_hidden_layers * self.num_attention_heads * self.head_dim * context
        return 6.0 * (matrices + self.vocab_size * self.hidden_size) + attention

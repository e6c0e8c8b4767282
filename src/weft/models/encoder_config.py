"""The shape of an encoder, in Hugging Face's own field names (ModernBERT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weft.core.errors import ConfigError
from weft.core.registry import lookup
from weft.models.dense import Dense

Head = Literal["masked", "sequence", "token", "span"]

ENCODERS: dict[str, Head] = {
    "ModernBertForMaskedLM": "masked",
    "ModernBertForSequenceClassification": "sequence",
    "ModernBertForTokenClassification": "token",
    "ModernBertForQuestionAnswering": "span",
}
"""What each stock architecture puts on top, by the name that a config.json gives under ``architectures``."""


@dataclass(frozen=True)
class EncoderConfig(Dense):
    """A pre-norm encoder with rotary positions, GeGLU, and local attention between global layers.

    ModernBERT (arXiv:2412.13663): every ``global_attn_every_n_layers``-th layer from the first on sees the
    whole document, with its own rotary base; the others see ``local_attention // 2`` tokens to each side.
    ``labels`` are the names of the classes of a head, by their numbers (a span head has start and end).
    ``dropout`` is that of embeddings, feed-forward and head while training. ``crf``: labels of tokens are
    scored as whole sequences.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    architecture: str = "ModernBertForMaskedLM"
    max_position_embeddings: int = 512
    global_attn_every_n_layers: int = 3
    local_attention: int = 128
    global_rope_theta: float = 160000.0
    local_rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    decoder_bias: bool = True
    classifier_bias: bool = False
    classifier_pooling: Literal["cls", "mean"] = "mean"
    problem_type: str | None = None
    labels: tuple[str, ...] = ()
    tie_word_embeddings: bool = True
    dropout: float = 0.0
    crf: bool = False

    def __post_init__(self) -> None:
        lookup(ENCODERS, self.architecture, "architecture")
        for name in (
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("max_position_embeddings", "global_attn_every_n_layers", "local_attention"),
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1.")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"hidden_size = {self.hidden_size} is not a multiple of twice num_attention_heads = "
                f"{self.num_attention_heads}; each head needs an even number of dimensions."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout = {self.dropout} must be at least 0 and less than 1.")
        if self.head == "span" and len(self.labels) != 2:
            raise ConfigError(f"A span head has two labels, start and end, not {len(self.labels)}.")
        if self.head in ("sequence", "token") and not self.labels:
            raise ConfigError(f"labels is empty; an {self.architecture} needs at least one class.")
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError("labels names a class twice; give every class a name of its own.")
        if self.crf and self.head != "token":
            raise ConfigError(
                f"A CRF stands on labels of tokens, not on an {self.architecture}; leave it out."
            )
        if self.head == "masked" and not self.tie_word_embeddings:
            raise ConfigError("tie_word_embeddings = False is not supported by encoders; they always tie.")

    @property
    def head(self) -> Head:
        """What stands on top."""
        return ENCODERS[self.architecture]

    @property
    def head_dim(self) -> int:
        """Size of an attention head."""
        return self.hidden_size // self.num_attention_heads

    def reach(self, layer: int) -> int | None:
        """Tokens that layer ``layer`` (from 0) sees to each side; None: the whole document."""
        return None if layer % self.global_attn_every_n_layers == 0 else self.local_attention // 2

    @property
    def parameters(self) -> int:
        """All parameters, the tied output matrix counted once."""
        E, F, L, V = self.hidden_size, self.intermediate_size, self.num_hidden_layers, self.vocab_size
        norms = E * (2 if self.norm_bias else 1)
        attention = 4 * E * E + (4 * E if self.attention_bias else 0)
        feed = 3 * E * F + (2 * F + E if self.mlp_bias else 0)
        body = V * E + L * (attention + feed) + 2 * norms + (2 * L - 1) * norms
        head = E * E + (E if self.classifier_bias else 0) + norms
        if self.head == "masked":
            return body + head + (V if self.decoder_bias else 0)
        classes = len(self.labels)
        return body + head + classes * (E + 1) + (classes * (classes + 2) if self.crf else 0)

    def flops_per_token(self, context: int) -> float:
        """Matrix floating-point operations of a training step per token of documents of ``context`` tokens.

        6 per matrix parameter and 12 * heads * head_dim * keys for the attention of each layer (PaLM,
        arXiv:2204.02311, appendix B). The output matrix of masked language modelling is not counted: it meets
        the hidden tokens only.
        """
        E, F = self.hidden_size, self.intermediate_size
        total = 6.0 * E * E
        for layer in range(self.num_hidden_layers):
            reach = self.reach(layer)
            keys = context if reach is None else min(context, 2 * reach + 1)
            total += 6 * (4 * E * E + 3 * E * F) + 12 * E * keys
        return total

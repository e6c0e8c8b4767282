"""The shape of an encoder-decoder, in Hugging Face's own field names (T5 v1.1)."""

from __future__ import annotations

from dataclasses import dataclass

from weft.core.errors import ConfigError
from weft.models.dense import Dense

ENCODER_DECODERS = ("T5ForConditionalGeneration",)
"""Names that a config.json gives under ``architectures``."""


@dataclass(frozen=True)
class EncoderDecoderConfig(Dense):
    """T5 v1.1 (arXiv:1910.10683, arXiv:2002.05202): pre-norm, relative position buckets, gated GELU.

    ``tie_word_embeddings``: the output matrix is the embedding, its input scaled by d_model^-0.5.
    ``dropout_rate`` is that of embeddings, sublayers and feed-forward while training.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    architecture: str = "T5ForConditionalGeneration"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    tie_word_embeddings: bool = False
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "d_model",
            "d_kv",
            "d_ff",
            "num_layers",
            "num_decoder_layers",
            "num_heads",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1.")
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 4:
            raise ConfigError(f"relative_attention_num_buckets = {buckets} must be a multiple of 4.")
        if distance <= buckets // 2:
            raise ConfigError(
                f"relative_attention_max_distance = {distance} must be more than half of "
                f"relative_attention_num_buckets = {buckets}."
            )
        if self.architecture not in ENCODER_DECODERS:
            raise ConfigError(f"architecture = {self.architecture!r} is no encoder-decoder known here.")
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ConfigError(f"dropout_rate = {self.dropout_rate} must be at least 0 and less than 1.")

    @property
    def hidden_size(self) -> int:
        """The width of the model under the name that the other families give it."""
        return self.d_model

    @property
    def parameters(self) -> int:
        """All parameters, a tied output matrix counted once."""
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_word_embeddings else 2)
        inside = self.num_heads * self.d_kv
        attention, feed, norm = 4 * self.d_model * inside, 3 * self.d_model * self.d_ff, self.d_model
        encoder = self.num_layers * (attention + feed + 2 * norm)
        decoder = self.num_decoder_layers * (2 * attention + feed + 3 * norm)
        biases = 2 * self.relative_attention_num_buckets * self.num_heads
        return embeddings + encoder + decoder + biases + 2 * norm

    def flops_per_token(self, context: int) -> float:
        """Matrix floating-point operations of a training step per target token, with a source as long.

        6 per matrix parameter (PaLM, arXiv:2204.02311, appendix B) and attention over ``context`` tokens;
        the decoder's own sees half of them on average.
        """
        inside = self.num_heads * self.d_kv
        attention, feed = 4 * self.d_model * inside, 3 * self.d_model * self.d_ff
        encoder = self.num_layers * (6 * (attention + feed) + 12 * inside * context)
        decoder = self.num_decoder_layers * (6 * (2 * attention + feed) + 18 * inside * context)
        return float(encoder + decoder + 6 * self.vocab_size * self.d_model)

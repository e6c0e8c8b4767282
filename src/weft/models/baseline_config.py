"""The shape of a baseline: a recurrent network or a small CNN under the heads of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weft.core.errors import ConfigError
from weft.core.registry import lookup
from weft.models import reader_shape
from weft.models.dense import Dense

Body = Literal["lstm", "gru", "cnn"]
Head = Literal["masked", "sequence", "token", "span"]
Pooling = Literal["cls", "mean", "max"]

BASELINES: dict[str, tuple[Body, Head]] = {
    "WeftLstmForMaskedLM": ("lstm", "masked"),
    "WeftGruForMaskedLM": ("gru", "masked"),
    "WeftCnnForMaskedLM": ("cnn", "masked"),
    "WeftLstmForSequenceClassification": ("lstm", "sequence"),
    "WeftLstmForTokenClassification": ("lstm", "token"),
    "WeftGruForSequenceClassification": ("gru", "sequence"),
    "WeftGruForTokenClassification": ("gru", "token"),
    "WeftLstmForQuestionAnswering": ("lstm", "span"),
    "WeftGruForQuestionAnswering": ("gru", "span"),
    "WeftCnnForSequenceClassification": ("cnn", "sequence"),
    "WeftCnnForTokenClassification": ("cnn", "token"),
}
"""What stands below and on top, by the name under ``architectures`` of a config.json. They are no stock
architectures: only Weft opens such a checkpoint."""

GATES = {"lstm": 4, "gru": 3}
"""Matrices of a recurrent cell, for its input and for its state."""

KERNEL_SIZES = (3, 4, 5)
"""Widths of the convolutions of Kim (arXiv:1408.5882)."""

SIDES = 3
"""Of a predicate: before it, in it, and after it."""

_WIDEST = 64


@dataclass(frozen=True)
class BaselineConfig(Dense):
    """Embeddings, layers of one kind, and a linear classifier.

    Embeddings and layers are ``hidden_size`` wide. A recurrent layer has half of that in each direction. A
    layer of a CNN shares it out among convolutions of ``kernel_sizes`` tokens, which a recurrent network has
    none of. ``classifier_pooling`` makes one vector of a document (:func:`weft.models.heads.pool`).
    ``labels``, ``dropout`` and ``crf`` are as in :class:`weft.models.encoder_config.EncoderConfig`. Nothing
    here limits the length of a text; ``max_position_embeddings`` says which lengths were trained.
    ``initializer_range`` is the spread of fresh embeddings. With ``bigram_buckets`` a token is read beside
    the vectors, ``bigram_size`` wide each, of the pairs that it makes with its neighbours
    (:mod:`weft.ops.bigrams`). A masked language model has no labels; its output is tied to the embeddings.
    ``sep_token_id`` is the token between a question and its text, for a network that answers questions.
    ``predicate_markers``: the tokens before and after a predicate, for a tagger that is told of it
    (:mod:`weft.models.predicate`).
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    architecture: str
    labels: tuple[str, ...]
    kernel_sizes: tuple[int, ...] = ()
    classifier_pooling: Pooling = "max"
    max_position_embeddings: int = 512
    initializer_range: float = 0.1
    bigram_buckets: int = 0
    bigram_size: int = 64
    sep_token_id: int | None = None
    predicate_markers: tuple[int, int] | None = None
    dropout: float = 0.0
    crf: bool = False

    def __post_init__(self) -> None:
        lookup(BASELINES, self.architecture, "architecture")
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1.")
        self._check_sizes()
        if self.bigram_buckets < 0 or self.bigram_size < 1:
            raise ConfigError(
                f"bigram_buckets = {self.bigram_buckets} must be at least 0, and bigram_size = "
                f"{self.bigram_size} at least 1."
            )
        if self.classifier_pooling not in ("cls", "mean", "max"):
            raise ConfigError(f"classifier_pooling = {self.classifier_pooling!r} must be cls, mean or max.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout = {self.dropout} must be at least 0 and less than 1.")
        if not 0.0 < self.initializer_range < float("inf"):
            raise ConfigError(f"initializer_range = {self.initializer_range} must be positive.")
        if not self.labels and self.head != "masked":
            raise ConfigError(f"labels is empty; an {self.architecture} needs at least one class.")
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError("labels names a class twice; give every class a name of its own.")
        if (self.sep_token_id is not None) != (self.head == "span"):
            raise ConfigError(
                f"sep_token_id = {self.sep_token_id} does not fit an {self.architecture}: what answers "
                "questions about texts needs the token between these, and nothing else has one."
            )
        if self.sep_token_id is not None and not 0 <= self.sep_token_id < self.vocab_size:
            raise ConfigError(
                f"sep_token_id = {self.sep_token_id} must be one of the {self.vocab_size} tokens, from 0 on."
            )
        markers = self.predicate_markers
        if markers is not None and self.head != "token":
            raise ConfigError(
                f"predicate_markers = {list(markers)} is for labels of tokens, not for an "
                f"{self.architecture}; leave it out."
            )
        if markers is not None and len({*markers}) != 2:
            raise ConfigError(f"predicate_markers = {list(markers)} must be two different tokens.")
        if markers is not None and not all(0 <= marker < self.vocab_size for marker in markers):
            raise ConfigError(
                f"predicate_markers = {list(markers)} must be of the {self.vocab_size} tokens, from 0 on."
            )
        if self.crf and self.head != "token":
            raise ConfigError(
                f"crf = true stands on labels of tokens, not on an {self.architecture}; leave it out."
            )

    def _check_sizes(self) -> None:
        kernels = self.kernel_sizes
        if self.body != "cnn":
            if kernels:
                raise ConfigError(f"kernel_sizes is for a CNN; an {self.architecture} has none.")
            if self.hidden_size % 2:
                raise ConfigError(f"hidden_size = {self.hidden_size} must be even: half goes each way.")
            return
        if (
            not kernels
            or len(set(kernels)) < len(kernels)
            or not 1 <= min(kernels) <= max(kernels) <= _WIDEST
        ):
            raise ConfigError(
                f"kernel_sizes = {list(kernels)} must be different numbers from 1 to {_WIDEST}, at least one."
            )
        if self.hidden_size < len(kernels):
            raise ConfigError(
                f"hidden_size = {self.hidden_size} must be at least the {len(kernels)} kernel_sizes that "
                "share it."
            )

    @property
    def body(self) -> Body:
        """What reads the text."""
        return BASELINES[self.architecture][0]

    @property
    def head(self) -> Head:
        """What stands on top."""
        return BASELINES[self.architecture][1]

    @property
    def filters(self) -> dict[int, int]:
        """The channels of the convolution of each size, which sum to ``hidden_size``; empty without any."""
        if not self.kernel_sizes:
            return {}
        each, more = divmod(self.hidden_size, len(self.kernel_sizes))
        return {size: each + (number < more) for number, size in enumerate(self.kernel_sizes)}

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the output of a masked language model, which is the embeddings, stands on top."""
        return self.head == "masked"

    @property
    def input_size(self) -> int:
        """Numbers that the first layer reads of each token."""
        return self.hidden_size + (2 * self.bigram_size if self.bigram_buckets else 0)

    @property
    def parameters(self) -> int:
        """All parameters."""
        E, classes = self.hidden_size, len(self.labels)
        layers = self._matrices + self._biases
        tables = self.vocab_size * E + self.bigram_buckets * 2 * self.bigram_size
        if self.head == "masked":
            # A matrix and a norm, and a bias of the output, whose matrix is the embeddings.
            return tables + layers + E * (E + 1) + self.vocab_size
        told = self._told + SIDES * self.input_size + 2 * E if self.predicate_markers else 0
        return tables + layers + told + classes * (E + 1) + (classes * (classes + 2) if self.crf else 0)

    @property
    def _told(self) -> int:
        """Numbers in the matrices of :class:`weft.models.predicate.Predicate`."""
        return self.input_size**2 + 3 * self.hidden_size**2 if self.predicate_markers else 0

    @property
    def _biases(self) -> int:
        """Numbers that stand beside those of the matrices of all layers."""
        E = self.hidden_size
        if self.head == "span":
            return reader_shape.biases(E, GATES[self.body], self.num_hidden_layers)
        # PyTorch's cells have two vectors of biases, each of them as long as the gates.
        return self.num_hidden_layers * (E if self.body == "cnn" else 2 * GATES[self.body] * E)

    def flops_per_token(self, context: int) -> float:
        """Matrix floating-point operations of a training step per token, whatever ``context`` is: 6 per
        parameter of a matrix of the layers."""
        return 6.0 * (self._matrices + self._told)

    @property
    def _matrices(self) -> int:
        """Numbers in the matrices of all layers, of which the first may read more."""
        if self.head == "span":
            return reader_shape.matrices(
                self.input_size, self.hidden_size, GATES[self.body], self.num_hidden_layers
            )
        E = self.hidden_size
        if self.body == "cnn":
            reads, state = sum(size * filters for size, filters in self.filters.items()), 0
        else:
            reads, state = GATES[self.body] * E, GATES[self.body] * E * E // 2
        return reads * self.input_size + state + (self.num_hidden_layers - 1) * (reads * E + state)

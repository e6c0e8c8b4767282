"""The shape of a baseline: a recurrent network or a small CNN under the heads of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weft.core.errors import ConfigError
from weft.core.registry import lookup
from weft.models.dense import Dense

Body = Literal["lstm", "gru", "cnn"]
Head = Literal["sequence", "token"]
Pooling = Literal["cls", "mean", "max"]

BASELINES: dict[str, tuple[Body, Head]] = {
    "WeftLstmForSequenceClassification": ("lstm", "sequence"),
    "WeftLstmForTokenClassification": ("lstm", "token"),
    "WeftGruForSequenceClassification": ("gru", "sequence"),
    "WeftGruForTokenClassification": ("gru", "token"),
    "WeftCnnForSequenceClassification": ("cnn", "sequence"),
    "WeftCnnForTokenClassification": ("cnn", "token"),
}
"""What stands below and on top, by the name under ``architectures`` of a config.json. They are no stock
architectures: only Weft opens such a checkpoint."""

GATES = {"lstm": 4, "gru": 3}
"""Matrices of a recurrent cell, for its input and for its state."""

KERNEL_SIZES = (3, 4, 5)
"""Widths of the convolutions of Kim (arXiv:1408.5882)."""

_WIDEST = 64


@dataclass(frozen=True)
class BaselineConfig(Dense):
    """Embeddings, layers of one kind, and a linear classifier.

    Embeddings and layers are ``hidden_size`` wide. A recurrent layer has half of that in each direction. A
    layer of a CNN shares it out among convolutions of ``kernel_sizes`` tokens, which a recurrent network has
    none of. ``classifier_pooling`` makes one vector of a document (:func:`weft.models.heads.pool`).
    ``labels``, ``dropout`` and ``crf`` are as in :class:`weft.models.encoder_config.EncoderConfig`. Nothing
    here limits the length of a text; ``max_position_embeddings`` says which lengths were trained.
    ``initializer_range`` is the spread of fresh embeddings.
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
    dropout: float = 0.0
    crf: bool = False

    def __post_init__(self) -> None:
        lookup(BASELINES, self.architecture, "architecture")
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1.")
        self._check_sizes()
        if self.classifier_pooling not in ("cls", "mean", "max"):
            raise ConfigError(f"classifier_pooling = {self.classifier_pooling!r} must be cls, mean or max.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout = {self.dropout} must be at least 0 and less than 1.")
        if not 0.0 < self.initializer_range < float("inf"):
            raise ConfigError(f"initializer_range = {self.initializer_range} must be positive.")
        if not self.labels:
            raise ConfigError(f"labels is empty; an {self.architecture} needs at least one class.")
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError("labels names a class twice; give every class a name of its own.")
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
        """There is no matrix that the embeddings could be tied to."""
        return False

    @property
    def parameters(self) -> int:
        """All parameters."""
        E, classes = self.hidden_size, len(self.labels)
        # PyTorch's cells have two vectors of biases, each of them as long as the gates.
        biases = E if self.body == "cnn" else 2 * GATES[self.body] * E
        layers = self.num_hidden_layers * (self._layer_matrices + biases)
        top = classes * (E + 1) + (classes * (classes + 2) if self.crf else 0)
        return self.vocab_size * E + layers + top

    def flops_per_token(self, context: int) -> float:
        """Matrix floating-point operations of a training step per token, whatever ``context`` is: 6 per
        parameter of a matrix of the layers."""
        return 6.0 * self.num_hidden_layers * self._layer_matrices

    @property
    def _layer_matrices(self) -> int:
        E = self.hidden_size
        if self.body == "cnn":
            return sum(size * E * filters for size, filters in self.filters.items())
        return GATES[self.body] * E * (E + E // 2)

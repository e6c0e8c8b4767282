"""The run file of training. What is left out is derived from the time budget, see :mod:`weft.train.dial`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weft.core.config import duration
from weft.core.errors import ConfigError
from weft.data.config import MixtureConfig, StreamConfig
from weft.parallel.elastic import Elastic
from weft.parallel.plan import Plan


@dataclass(frozen=True)
class DataSection:
    """``path``: a folder made by ``weft data``; ``sequence_length``: positions of a packed row.

    ``target_length``: those of the target's rows where pairs are learnt, by default as many.
    """

    path: str = ""
    sequence_length: int = 512
    target_length: int | None = None


@dataclass(frozen=True)
class ModelSection:
    """The shape of a fresh model, unset sizes following from the budget; or ``start``, a checkpoint.

    An objective of encoders or encoder-decoders takes the architecture that it needs in place of the default.
    ``dropout`` is that of these models, ``num_decoder_layers`` of the latter, ``crf`` of a tagger.
    ``bigram_buckets`` and ``bigram_size`` are of recurrent networks and CNNs (:mod:`weft.ops.bigrams`).
    ``predicate``: whether such a tagger is told of the predicate (:mod:`weft.models.predicate`), unset where
    the texts have one.
    ``vectors``: a text file of word vectors that a fresh embedding starts from (:mod:`weft.train.vectors`).
    From ``num_experts`` on the keys belong to a mixture of experts (Qwen3MoeForCausalLM).
    """

    start: str | None = None
    architecture: str = "Qwen3ForCausalLM"
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    dropout: float | None = None
    num_decoder_layers: int | None = None
    crf: bool | None = None
    vectors: str | None = None
    bigram_buckets: int | None = None
    bigram_size: int | None = None
    predicate: bool | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    norm_topk_prob: bool = True
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrainSection:
    """``budget``: the one dial, a duration; ``steps``, or ``epochs`` over the data: a fixed length instead.

    ``arithmetic``: what matrices multiply in; ``fp8`` is taken only when asked for (:mod:`weft.ops.float8`).
    ``async_save``: checkpoints are copied to the host's memory and written while training goes on.
    ``best``: the figure of validation by which the model that is written is chosen, ``none`` for the last;
    ``patience``: so many validations that get no better end the run.
    ``timeout``: a duration; a rank that keeps the others waiting for longer ends this start of the run.
    ``elastic``: the size of the plan that follows the number of processes, ``none`` where it is fixed.
    """

    budget: str | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_tokens: int | None = None
    micro_rows: int | None = None
    seed: int = 0
    device: str = "auto"
    arithmetic: Literal["auto", "bf16", "fp32", "fp8"] = "auto"
    compile: bool = False
    clip: float = 1.0
    ema: float = 0.0
    save_steps: int | None = None
    keep_checkpoints: int = 2
    async_save: bool = True
    validate_steps: int | None = None
    validate_rows: int = 32
    best: Literal["none", "validation_loss", "validation_accuracy", "validation_f1"] | None = None
    patience: int | None = None
    timeout: str = "10m"
    elastic: Elastic = "none"


@dataclass(frozen=True)
class OptimizerSection:
    """``learning_rate`` is the peak for matrices in AdamW's scale; see :mod:`weft.train.optim`.

    ``base_width``: the model width at which ``learning_rate`` was chosen. With it, weights start and rates
    follow the width as muP says, so that one rate serves every width; see :mod:`weft.train.transfer`.
    """

    name: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = None
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_steps: int | None = None
    decay_share: float = 0.6
    final_share: float = 0.0
    base_width: int | None = None


@dataclass(frozen=True)
class BalanceSection:
    """How the load of experts is kept even; see :mod:`weft.train.balance`.

    ``rate``: what a step adds to or takes from the bias of an expert; ``release``: the last share of the
    run, in whose first half the biases fade to 0, so that the model that is written routes as trained.
    """

    rate: float = 0.001
    release: float = 0.3


@dataclass(frozen=True)
class ObjectiveSection:
    """What is learnt from the data folder.

    Of plain text: ``pretrain``, every next token; ``masked``, hidden tokens seen from both sides (an
    encoder), ``mask_rate`` of all; ``corrupt``, spans that were cut out (an encoder-decoder). Of supervised
    examples: ``sft``, the answers; ``dpo`` and ``orpo``, which of two answers is better; ``pairs``, targets
    from sources (an encoder-decoder); ``classify``, ``tag``, ``span`` and ``extractive``, labels, and
    ``contrastive``, which texts lie close (an encoder). ``long`` says what becomes of an example longer than
    a row.
    ``task`` says what the model will be asked for, by default the usual one of the form
    (:data:`weft.tasks.card.TASKS`). ``label_smoothing`` and ``balance_classes`` (every class weighs the same)
    are for labels and pairs, the former for dpo too. ``token_dropout`` is the share of the tokens that is
    hidden while labels are learnt (:mod:`weft.data.hiding`); not of ``span``, which looks for equal tokens.
    ``agreement`` weighs how far two readings of a text under dropout lie apart, for classify
    (:class:`weft.train.objectives.classify.Classify`); a step takes twice as long.

    ``beta`` is that of dpo, and the weight of the odds in orpo. ``distil`` learns plain text, and from the
    distributions of the checkpoint ``teacher``: ``alpha`` is their share of the loss, at ``temperature``
    (by default 2). That of contrastive divides its scores (by default 0.05).
    """

    name: Literal[
        "pretrain",
        "distil",
        "masked",
        "corrupt",
        "sft",
        "dpo",
        "orpo",
        "pairs",
        "classify",
        "tag",
        "span",
        "extractive",
        "contrastive",
    ] = "pretrain"
    long: Literal["drop", "cut"] = "drop"
    mask_rate: float = 0.3
    task: str | None = None
    label_smoothing: float = 0.0
    balance_classes: bool = False
    token_dropout: float | None = None
    agreement: float | None = None
    beta: float = 0.1
    teacher: str | None = None
    alpha: float = 0.5
    temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("beta", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise ConfigError(f"objective.{name} = {value} must be positive.")
        if self.name in (*PREFERENCES, "contrastive") and self.long == "cut":
            raise ConfigError("objective.long = cut would cut one of two texts; leave it out.")
        if self.token_dropout is not None and not 0.0 <= self.token_dropout < 1.0:
            raise ConfigError(
                f"objective.token_dropout = {self.token_dropout} must be at least 0 and less than 1."
            )
        if self.token_dropout and self.name not in ("classify", "tag", "extractive"):
            raise ConfigError(
                f"objective.token_dropout is for labels (classify, tag, extractive), not for {self.name}; "
                "leave it out."
            )
        if self.agreement is not None and not 0.0 <= self.agreement < float("inf"):
            raise ConfigError(f"objective.agreement = {self.agreement} must be at least 0.")
        if self.agreement and self.name != "classify":
            raise ConfigError(f"objective.agreement is for classify, not for {self.name}; leave it out.")
        if (self.name == "distil") != (self.teacher is not None):
            raise ConfigError("objective.name = distil needs objective.teacher, a checkpoint; no other does.")


SUPERVISED = ("sft", "dpo", "orpo", "pairs", "classify", "tag", "span", "extractive", "contrastive")
"""Objectives whose data folder ``weft data supervised`` makes."""

PREFERENCES = ("dpo", "orpo")
"""Objectives that learn from pairs of answers."""


@dataclass(frozen=True)
class LoraSection:
    """Low-rank adapters in place of whole weights; ``rank`` 0 trains all. See :mod:`weft.train.lora`.

    ``targets``: ends of the names of the matrices that get one. ``base``: what the frozen matrices beside
    them are kept in, the arithmetic's format or ``int8``.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (
        *("attention.q", "attention.k", "attention.v", "attention.o"),
        *("feed_forward.gate", "feed_forward.up", "feed_forward.down"),
    )
    base: Literal["arithmetic", "int8"] = "arithmetic"

    def __post_init__(self) -> None:
        if self.rank < 0 or not 0.0 <= self.dropout < 1.0 or not 0.0 < self.alpha < float("inf"):
            raise ConfigError(
                f"lora.rank = {self.rank} must be at least 0, lora.alpha = {self.alpha} positive, and "
                f"lora.dropout = {self.dropout} at least 0 and less than 1."
            )
        if not self.targets:
            raise ConfigError("lora.targets is empty; name the matrices that get an adapter.")


@dataclass(frozen=True)
class TrainRun:
    """One training run, complete.

    With ``mixture.sources`` the training rows come from those; ``data.path`` still gives tokenizer and
    validation. The mixture and the layout (``parallel``) of a run in progress may be changed, all else
    may not.
    """

    data: DataSection = field(default_factory=DataSection)
    objective: ObjectiveSection = field(default_factory=ObjectiveSection)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    model: ModelSection = field(default_factory=ModelSection)
    lora: LoraSection = field(default_factory=LoraSection)
    train: TrainSection = field(default_factory=TrainSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    balance: BalanceSection = field(default_factory=BalanceSection)
    parallel: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        self._check_objective()
        if self.objective.name in SUPERVISED and self.mixture.sources:
            raise ConfigError(
                f"objective.name = {self.objective.name} learns from data.path alone; leave mixture.sources "
                "out."
            )
        if self.model.vectors is not None and self.model.start is not None:
            raise ConfigError("model.vectors is for fresh models; leave it out, or model.start.")
        if self.train.epochs is not None and not 0.0 < self.train.epochs < float("inf"):
            raise ConfigError(f"train.epochs = {self.train.epochs} must be positive.")
        if self.train.budget is not None:
            duration(self.train.budget)
        duration(self.train.timeout)
        for name, value, least in (
            ("data.sequence_length", self.data.sequence_length, 2),
            ("data.target_length", self.data.target_length, 2),
            ("train.steps", self.train.steps, 1),
            ("train.batch_tokens", self.train.batch_tokens, 1),
            ("train.micro_rows", self.train.micro_rows, 1),
            ("train.save_steps", self.train.save_steps, 1),
            ("train.validate_steps", self.train.validate_steps, 1),
            ("train.patience", self.train.patience, 1),
            ("train.keep_checkpoints", self.train.keep_checkpoints, 1),
            ("optimizer.base_width", self.optimizer.base_width, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{name} = {value} must be at least {least}.")
        for name, share in (
            ("train.ema", self.train.ema),
            ("objective.label_smoothing", self.objective.label_smoothing),
            ("objective.alpha", self.objective.alpha),
            ("optimizer.decay_share", self.optimizer.decay_share),
            ("optimizer.final_share", self.optimizer.final_share),
            ("optimizer.beta1", self.optimizer.beta1),
            ("optimizer.beta2", self.optimizer.beta2),
            ("optimizer.momentum", self.optimizer.momentum),
            ("balance.rate", self.balance.rate),
            ("balance.release", self.balance.release),
        ):
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"{name} = {share} must lie between 0 and 1.")
        rate = self.optimizer.learning_rate
        if rate is not None and not 0.0 < rate < float("inf"):
            raise ConfigError(f"optimizer.learning_rate = {rate} must be positive.")

    def _check_objective(self) -> None:
        name, plan = self.objective.name, self.parallel
        if name in (*PREFERENCES, "distil") and plan != Plan(dp=plan.dp):
            raise ConfigError(
                f"objective.name = {name} trains alone or with dp alone; leave the rest of the plan out."
            )
        if self.objective.agreement and plan != Plan(dp=plan.dp):
            raise ConfigError(
                "objective.agreement trains alone or with dp alone; leave the rest of the plan out."
            )
        if name == "dpo" and self.model.start is None:
            raise ConfigError("objective.name = dpo needs model.start: what it learns is compared with that.")

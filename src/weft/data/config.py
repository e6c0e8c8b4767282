"""The configuration of ``weft data``: every key of the run file, with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weft.core.errors import ConfigError
from weft.data.config_quality import (
    ClassifierConfig,
    CleanConfig,
    ContaminationConfig,
    LanguageConfig,
    LinesConfig,
    QualityConfig,
)

Policy = Literal["mask", "replace", "drop", "keep"]


@dataclass(frozen=True)
class ReadConfig:
    """Which files are read, and how their bytes become text."""

    max_document_bytes: int = 64 << 20
    """A larger file, or a longer record, is dropped as ``too_large`` without being read."""
    exclude: tuple[str, ...] = ("__pycache__", "site-packages", "dist-packages", "node_modules")
    """Names of folders that are not entered (hidden ones never are)."""
    suffixes: tuple[str, ...] = ()
    """Only files whose names end so, for instance ".py"; others found in folders are ``other_suffix``."""
    invalid: Literal["drop", "replace"] = "drop"
    """Bytes of no known encoding: drop the document, or put U+FFFD in their place."""
    text_field: str = "text"
    """The field of JSON records, or the column of CSV and Parquet, that holds the text."""
    max_ratio: int = 200
    """A compressed file or member that unpacks to more than this many times its size is a ``zip_bomb``."""
    max_member_bytes: int = 64 << 30
    """The most that a compressed file, or one member of an archive, may unpack to."""
    max_archive_bytes: int = 256 << 30
    """The most that all members of an archive may unpack to."""

    def __post_init__(self) -> None:
        for name in ("max_document_bytes", "max_ratio", "max_member_bytes", "max_archive_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"read.{name} = {getattr(self, name)} is not possible; give at least 1.")


@dataclass(frozen=True)
class JunkConfig:
    """Limits of the junk rules; a rule's source is beside the rule in ``steps/junk.py``."""

    min_bytes: int = 64
    min_alphanumeric: float = 0.25
    max_line_code: int = 1000
    max_mean_line_code: int = 100
    max_line_text: int = 100_000
    max_repeated_text: float = 0.3
    max_repeated_code: float = 0.8
    generated_code: Literal["drop", "keep"] = "drop"
    """What to do with code whose first lines say that a program wrote it."""


@dataclass(frozen=True)
class DuplicatesConfig:
    """Near duplicates: documents whose sets of word n-grams have at least this Jaccard similarity."""

    near: bool = True
    jaccard: float = 0.8
    ngram: int = 5
    against: tuple[str, ...] = ()
    """Folders that ``weft data`` made before: what is in them already is dropped here."""

    def __post_init__(self) -> None:
        if not 0.4 <= self.jaccard <= 1.0:
            raise ConfigError(f"duplicates.jaccard = {self.jaccard} is not possible; give 0.4 to 1.0.")
        if self.ngram < 1:
            raise ConfigError(f"duplicates.ngram = {self.ngram} is not possible; give at least 1.")


@dataclass(frozen=True)
class PersonalConfig:
    """What is done with personal data, kind by kind; the kinds are explained in ``personal/``.

    ``mask`` puts a tag like ``<EMAIL>`` in its place, ``replace`` a fake of the same form (equal values get
    equal fakes), ``drop`` drops the document, ``keep`` only counts.
    """

    enabled: bool = True
    key: Policy = "mask"
    url_credentials: Policy = "mask"
    resident_id: Policy = "mask"
    iban: Policy = "mask"
    bank_card: Policy = "mask"
    us_ssn: Policy = "mask"
    email: Policy = "mask"
    mac: Policy = "mask"
    ip: Policy = "mask"
    phone: Policy = "mask"
    passport: Policy = "mask"
    plate: Policy = "mask"
    address: Policy = "mask"
    other: Policy = "mask"
    """For kinds that only further finders know."""
    private_ip: bool = False
    """Also addresses that mean nothing outside one network (10.0.0.1, ::1)."""
    old_resident_id: bool = False
    """Also resident ids of 15 digits, which have no check digit, after a word that announces them."""
    presidio: bool = False
    """Also what the pattern recognisers of Presidio find (extra ``presidio``)."""
    secret_file: str | None = None
    """The key of the fakes, at least 16 bytes; without it each run makes one and forgets it."""


@dataclass(frozen=True)
class SplitConfig:
    """Shares of the documents that validation and test get; training gets the rest."""

    valid: float = 0.02
    test: float = 0.02

    def __post_init__(self) -> None:
        if self.valid < 0 or self.test < 0 or self.valid + self.test >= 1:
            raise ConfigError(
                f"split.valid = {self.valid} and split.test = {self.test} leave nothing to train on; "
                "give shares from 0 that sum to less than 1."
            )


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer that is trained on the training split, or the path of one that is given."""

    vocab_size: int = 8192
    sample_bytes: int = 16 << 20
    """Merges are learned from about this much text, drawn by content hash; 0 takes all of it."""
    path: str | None = None
    encoder: bool | None = None
    """For models that label or fill in text (:func:`weft.tokenizer.train.train`)."""


@dataclass(frozen=True)
class MixtureConfig:
    """Several sources of training rows, in shares that may change with the step.

    Without ``sources`` there is no mixture. Weights and epochs are in the order of the sources.
    """

    sources: tuple[str, ...] = ()
    """``"name = folder"``, or ``"name = folder#prefix"`` for the documents whose source begins so. A folder
    is one that ``weft data`` made, a folder of shards, or the URL of one."""
    weights: tuple[float, ...] = ()
    """Share of the rows of each source; by default its share of the tokens."""
    schedule: tuple[str, ...] = ()
    """``"step: weight, weight, ..."`` in rising order from step 0, in place of ``weights``."""
    change: Literal["linear", "step"] = "linear"
    """Between two steps of the schedule weights move in a line, or stay until the next."""
    epochs: tuple[float, ...] = ()
    """How often each source may be read at most (0 without limit); then the others share its part."""
    temperature: float = 1.0
    """Weights are raised to 1/temperature: above 1 small sources are read more often."""

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < float("inf"):
            raise ConfigError(f"mixture.temperature = {self.temperature} is not possible; give more than 0.")
        if self.weights and self.schedule:
            raise ConfigError("mixture.weights and mixture.schedule both set the weights; give one of them.")
        for name, values in (("weights", self.weights), ("epochs", self.epochs)):
            if values and len(values) != len(self.sources):
                raise ConfigError(
                    f"mixture.{name} has {len(values)} values for {len(self.sources)} sources; give one each."
                )


@dataclass(frozen=True)
class StreamConfig:
    """Where blocks of remote shards are kept, and how much of them."""

    folder: str = "~/.cache/weft/blocks"
    max_bytes: int = 8 << 30
    """On disk, for all processes that share the folder."""
    block_bytes: int = 4 << 20
    memory_bytes: int = 64 << 20
    """In the memory of each process."""


@dataclass(frozen=True)
class DataConfig:
    """One run of ``weft data``."""

    sources: tuple[str, ...] = ()
    on: str = "local"
    """Where the engine runs: ``local``, ``ray`` (this machine) or ``ray://HOST:PORT``; the result is one."""
    part_bytes: int = 256 << 20
    """The input is worked on in parts of about this size; an interruption costs one part at most."""
    read: ReadConfig = field(default_factory=ReadConfig)
    junk: JunkConfig = field(default_factory=JunkConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    personal: PersonalConfig = field(default_factory=PersonalConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    lines: LinesConfig = field(default_factory=LinesConfig)
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)

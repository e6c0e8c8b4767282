"""The configuration of ``weft data``: every key of the run file, with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weft.core.errors import ConfigError


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
    """The field of JSON records that holds the text."""


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

    def __post_init__(self) -> None:
        if not 0.4 <= self.jaccard <= 1.0:
            raise ConfigError(f"duplicates.jaccard = {self.jaccard} is not possible; give 0.4 to 1.0.")
        if self.ngram < 1:
            raise ConfigError(f"duplicates.ngram = {self.ngram} is not possible; give at least 1.")


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


@dataclass(frozen=True)
class DataConfig:
    """One run of ``weft data``."""

    sources: tuple[str, ...] = ()
    read: ReadConfig = field(default_factory=ReadConfig)
    junk: JunkConfig = field(default_factory=JunkConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)

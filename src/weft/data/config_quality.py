"""The configuration of cleaning, language and quality: sections of the run file of ``weft data``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weft.core.errors import ConfigError


@dataclass(frozen=True)
class CleanConfig:
    """Repairs of text (not of code) beyond NFC, line ends and control characters."""

    mojibake: bool = True
    """Undo UTF-8 that was read as Latin-1, Windows-1252 or GBK."""
    zero_width: bool = True
    """Remove invisible characters; joiners stay where emoji and scripts need them."""
    simplified: bool = False
    """Write traditional Chinese characters as simplified ones."""
    half_width: Literal["off", "alphanumeric", "all"] = "off"
    """Full-width letters and digits to ASCII; ``all``: punctuation and the ideographic space as well."""


@dataclass(frozen=True)
class LanguageConfig:
    """The language of each text, from samples of it."""

    identify: bool = True
    keep: tuple[str, ...] = ()
    """Codes such as "en" and "zh"; text of others is dropped as ``language``. Empty: all."""
    min_share: float = 0.5
    """The least share of a text that must be in the languages kept."""
    mixed_share: float = 0.2
    """A text is mixed when its second language has at least this share."""
    sample_bytes: int = 2048
    """Half of it is the beginning of a text, half its middle."""

    def __post_init__(self) -> None:
        if self.sample_bytes < 64:
            raise ConfigError(f"language.sample_bytes = {self.sample_bytes} is too few; give at least 64.")


@dataclass(frozen=True)
class GopherConfig:
    """Limits of Gopher's quality rules (arXiv:2112.11446, appendix A)."""

    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_symbols: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic_words: float = 0.8
    min_stop_words: int = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")

    def __post_init__(self) -> None:
        if len(self.stop_words) > 64:
            raise ConfigError(f"quality.gopher.stop_words has {len(self.stop_words)} words; give at most 64.")


@dataclass(frozen=True)
class RepetitionConfig:
    """Limits of Gopher's repetition rules (arXiv:2112.11446, table A1); 1.0 switches one off."""

    duplicate_lines: float = 0.3
    duplicate_paragraphs: float = 0.3
    duplicate_line_characters: float = 0.2
    duplicate_paragraph_characters: float = 0.2
    top: tuple[float, ...] = (0.2, 0.18, 0.16)
    """Share of characters in the commonest 2-, 3- and 4-gram."""
    duplicate: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.1)
    """Share of characters in repeated 5- to 10-grams."""

    def __post_init__(self) -> None:
        if len(self.top) != 3 or len(self.duplicate) != 6:
            raise ConfigError(
                "A repetition table needs 3 limits in top (2- to 4-grams) and 6 in duplicate (5 to 10)."
            )


@dataclass(frozen=True)
class C4Config:
    """C4's line and page rules (arXiv:1910.10683), with what its code adds; -1 switches a number off."""

    terminal_punctuation: bool = True
    """Keep only lines that end in one of ``end_marks`` and not in an ellipsis (FineWeb leaves this out)."""
    end_marks: str = ".?!\"'"
    min_line_words: int = 3
    max_word_length: int = 1000
    min_sentences: int = 5
    citations: bool = True
    """Remove Wikipedia's citation marks."""
    lorem_ipsum: bool = True
    javascript: bool = True
    curly_bracket: bool = True
    policy: bool = True


@dataclass(frozen=True)
class FinewebConfig:
    """Limits of FineWeb's rules (arXiv:2406.17557, section 3.6)."""

    min_ended_lines: float = 0.12
    max_short_lines: float = 0.67
    short_line: int = 30
    max_duplicate_characters: float = 0.01
    max_lines_per_word: float = 0.3


@dataclass(frozen=True)
class ChineseConfig:
    """Limits of the rules for Chinese text, which count characters where those for English count words."""

    min_han: int = 50
    max_han: int = 1_000_000
    min_han_share: float = 0.2
    """Han among the characters that are not white space."""
    min_punctuation: float = 0.005
    max_punctuation: float = 0.4
    max_runs: float = 0.2
    """Characters in runs of five or more equal ones."""
    min_sentence: float = 3.0
    max_sentence: float = 300.0
    """Mean letters a sentence."""
    min_function: float = 0.02
    """Function characters among Han, below which a text of few sentences is a list of keywords."""
    max_template: float = 10.0
    """Stock phrases of web pages in a thousand characters."""
    max_damage: float = 5.0
    """Marks of text broken beyond repair in a thousand characters."""


RuleSet = Literal["gopher_quality", "gopher_repetition", "c4", "fineweb", "chinese", "chinese_repetition"]


CHINESE_REPETITION = RepetitionConfig(duplicate=(0.4, 0.3, 0.25, 0.2, 0.18, 0.16))
"""N-grams of characters, of which a word has one to two."""


@dataclass(frozen=True)
class QualityConfig:
    """Which sets of rules a text must pass, by its language; code passes none."""

    english: tuple[RuleSet, ...] = ()
    chinese: tuple[RuleSet, ...] = ()
    other: tuple[RuleSet, ...] = ()
    gopher: GopherConfig = field(default_factory=GopherConfig)
    repetition: RepetitionConfig = field(default_factory=RepetitionConfig)
    c4: C4Config = field(default_factory=C4Config)
    fineweb: FinewebConfig = field(default_factory=FinewebConfig)
    zh: ChineseConfig = field(default_factory=ChineseConfig)
    zh_repetition: RepetitionConfig = field(default_factory=lambda: CHINESE_REPETITION)

    def __post_init__(self) -> None:
        for name in ("c4", "gopher_quality", "fineweb"):
            if name in self.chinese:
                raise ConfigError(
                    f"quality.chinese cannot have {name}, which counts words between spaces; use chinese."
                )


@dataclass(frozen=True)
class LinesConfig:
    """Lines that many documents share: navigation, notices, signatures."""

    unit: Literal["off", "line", "paragraph"] = "off"
    max_documents: int = 10
    """A line that occurs in more documents is removed."""
    min_letters: int = 10
    """Shorter ones, counted in letters and digits, are never removed."""
    keep: Literal["none", "first"] = "none"
    """``first``: it stays in the document whose source name comes first."""

    def __post_init__(self) -> None:
        if self.max_documents < 1:
            raise ConfigError(f"lines.max_documents = {self.max_documents} is not possible; give at least 1.")


@dataclass(frozen=True)
class ContaminationConfig:
    """Texts that share a word n-gram with an evaluation set are dropped."""

    sets: tuple[str, ...] = ()
    """Files or folders of evaluation items: .jsonl, .parquet, .txt (a line is an item)."""
    fields: tuple[str, ...] = ()
    """Fields of records that are looked for; empty: all text in them."""
    ngram: int = 13
    """Words of the n-gram, a Han character being one (GPT-3, arXiv:2005.14165, appendix C)."""
    max_items: int = 10
    """An n-gram of more items than this is a stock phrase of the set and is not looked for."""

    def __post_init__(self) -> None:
        if self.ngram < 2:
            raise ConfigError(f"contamination.ngram = {self.ngram} is not possible; give at least 2.")


@dataclass(frozen=True)
class ClassifierConfig:
    """A trained quality classifier: texts that score below the threshold are dropped."""

    path: str | None = None
    """The folder that training wrote; none: no classifier."""
    threshold: float = 0.5


@dataclass(frozen=True)
class ClassifierTraining:
    """How a quality classifier is trained; stored with it."""

    bits: int = 20
    """The weights are 2 to this power."""
    ngrams: int = 2
    """Features are n-grams of 1 to this many words, a Han character being one."""
    epochs: int = 5
    rate: float = 0.5
    batch: int = 64
    held_out: float = 0.1
    """The share of samples, drawn by content hash, that only measures."""

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 28 or self.ngrams < 1 or not 0 < self.held_out < 1:
            raise ConfigError(
                "A classifier takes bits from 8 to 28, ngrams from 1 and held_out between 0 and 1."
            )

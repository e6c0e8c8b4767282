"""Gopher's rules (Rae et al., arXiv:2112.11446, appendix A): quality of web text and repetition in it.

The figures are datatrove's, but for what a word is (see :mod:`weft.data.textstats`); repeated n-grams are
compared word by word, where datatrove joins the words first.
"""

from __future__ import annotations

from weft.data.config_quality import GopherConfig, RepetitionConfig
from weft.data.rules import Rule, at_least, at_most
from weft.data.textstats import TextStats

QUALITY = "gopher_quality"
REPETITION = "gopher_repetition"


def quality(stats: TextStats, config: GopherConfig) -> list[Rule]:
    """Words, symbols, bullets, ellipses and stop words."""
    plain = stats["plain_words"]
    length = stats.ratio("plain_word_chars", "plain_words")
    return [
        at_least(QUALITY, "words", plain, config.min_words),
        at_most(QUALITY, "words", plain, config.max_words),
        at_least(QUALITY, "mean_word", length, config.min_word_length),
        at_most(QUALITY, "mean_word", length, config.max_word_length),
        at_most(QUALITY, "hashes", stats.ratio("hashes", "words"), config.max_symbols),
        at_most(QUALITY, "ellipses", stats.ratio("ellipses", "words"), config.max_symbols),
        at_most(QUALITY, "bullet_lines", stats.ratio("bullet_lines", "lines"), config.max_bullet_lines),
        at_most(QUALITY, "ellipsis_lines", stats.ratio("ellipsis_lines", "lines"), config.max_ellipsis_lines),
        at_least(
            QUALITY, "alphabetic_words", stats.ratio("alpha_words", "words"), config.min_alphabetic_words
        ),
        at_least(QUALITY, "stop_words", stats["stop_words"], config.min_stop_words),
    ]


def repetition(stats: TextStats, config: RepetitionConfig, reason: str = REPETITION) -> list[Rule]:
    """Repeated paragraphs, lines and n-grams, by number and by characters."""
    rules = [
        at_most(
            reason, "paragraphs", stats.ratio("dup_paragraphs", "paragraphs"), config.duplicate_paragraphs
        ),
        at_most(
            reason,
            "paragraph_characters",
            stats.ratio("dup_paragraph_chars", "chars"),
            config.duplicate_paragraph_characters,
        ),
        at_most(reason, "lines", stats.ratio("dup_rows", "rows"), config.duplicate_lines),
        at_most(
            reason,
            "line_characters",
            stats.ratio("dup_row_chars", "chars"),
            config.duplicate_line_characters,
        ),
    ]
    for n, limit in enumerate(config.top, 2):
        rules.append(at_most(reason, f"top_{n}_gram", stats.ratio(f"top_{n}", "chars"), limit))
    for n, limit in enumerate(config.duplicate, 5):
        rules.append(at_most(reason, f"duplicate_{n}_grams", stats.ratio(f"dup_{n}", "chars"), limit))
    return rules

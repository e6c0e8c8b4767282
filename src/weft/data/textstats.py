"""Statistics of texts that the quality rules read: counts, measured once a document and shared by all rules.

A word is a run of characters between white space and Han characters, less the symbols at its ends, which
are a word of their own; each Han character is a word. Everything else is counted as datatrove counts it,
whose words come from a tokenizer of the language: that one also splits ``don't`` and ``and/or``, and cuts
Chinese into words of one to four characters.

======================================  ==============================================================
chars                                   characters of the text
words                                   words, those of symbols alone included
plain_words, plain_word_chars           words with a character that is no symbol, and their characters
alpha_words                             words with a letter
stop_words                              different stop words that occur, of those given
hashes, ellipses                        ``#``; ``...`` and ``…``
lines, bullet_lines, ellipsis_lines     lines of ``str.splitlines``, those begun by • or -, those that end
                                        in an ellipsis
paragraphs, dup_paragraphs, _chars      pieces between empty lines; those that repeat an earlier one, and
                                        their characters
rows, dup_rows, dup_row_chars           the same of pieces between runs of line feeds
top_2 … top_4                           characters of all occurrences of the commonest n-gram of words, a
                                        space between two words counted unless one is Han
dup_5 … dup_10                          characters in n-grams of words that repeat an earlier one, none
                                        counted twice, spaces left out
full_lines, ended_lines, short_lines    lines that are not blank; with a sentence terminal at the end; of
                                        at most ``short_line`` characters
dup_full_line_chars, line_feeds         characters of lines, not blank, that repeat an earlier one; ``\\n``
visible, letters, han, marks            characters that are no white space; letters; Han; punctuation
function_chars                          Chinese function characters
run_chars                               characters in runs of five or more equal ones
sentences                               pieces with a letter between line feeds and Chinese end marks
======================================  ==============================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weft.data import characters, textstats_plain
from weft.data.kernels import address, buffers, library, whole

NAMES = (
    "chars", "words", "plain_words", "plain_word_chars", "alpha_words", "stop_words", "hashes", "ellipses",
    "lines", "bullet_lines", "ellipsis_lines",
    "paragraphs", "dup_paragraphs", "dup_paragraph_chars", "rows", "dup_rows", "dup_row_chars",
    "top_2", "top_3", "top_4", "dup_5", "dup_6", "dup_7", "dup_8", "dup_9", "dup_10",
    "full_lines", "ended_lines", "short_lines", "dup_full_line_chars", "line_feeds",
    "visible", "letters", "han", "marks", "function_chars", "run_chars", "sentences",
)  # fmt: skip
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher's (arXiv:2112.11446, appendix A)."""
SHORT_LINE = 30


@dataclass(frozen=True)
class TextStats:
    """``table`` int64 [N, len(NAMES)]; ``stats["words"]`` is one column, int64 [N]."""

    table: npt.NDArray[np.int64]

    def __getitem__(self, name: str) -> npt.NDArray[np.int64]:
        return self.table[:, NAMES.index(name)]

    def __len__(self) -> int:
        return len(self.table)

    def ratio(self, part: str, whole: str) -> npt.NDArray[np.float64]:
        """One column over another, 0 where that is 0; float64 [N]."""
        return self[part] / np.maximum(self[whole], 1)


def text_stats(
    texts: pa.Array, stop_words: Sequence[str] = STOP_WORDS, short_line: int = SHORT_LINE
) -> TextStats:
    """Measure a large_string array [N], natively where a compiler is; at most 64 stop words."""
    native = library("text")
    if native is None:
        return text_stats_plain(texts, stop_words, short_line)
    data, offsets = buffers(texts)
    stop_data, stop_offsets = buffers(pa.array(stop_words, pa.large_string()))
    table = np.empty((len(offsets) - 1, len(NAMES)), np.int64)
    native.text_stats(
        address(data), address(offsets), *whole(len(table)), address(characters.flags()),
        address(stop_data), address(stop_offsets), *whole(len(stop_words), short_line), address(table),
    )  # fmt: skip
    return TextStats(table)


def text_stats_plain(
    texts: pa.Array, stop_words: Sequence[str] = STOP_WORDS, short_line: int = SHORT_LINE
) -> TextStats:
    """The same without native code."""
    rows = [
        textstats_plain.measure(text or "", frozenset(stop_words), short_line) for text in texts.to_pylist()
    ]
    table = np.array([[row[name] for name in NAMES] for row in rows], np.int64)
    return TextStats(table.reshape(len(rows), len(NAMES)))

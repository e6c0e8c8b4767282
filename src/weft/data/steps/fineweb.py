"""FineWeb's own rules (Penedo et al., arXiv:2406.17557, section 3.6), with datatrove's figures."""

from __future__ import annotations

import numpy as np

from weft.data.config_quality import FinewebConfig
from weft.data.rules import Rule, at_least, at_most
from weft.data.textstats import TextStats

FINEWEB = "fineweb"


def fineweb(stats: TextStats, config: FinewebConfig) -> list[Rule]:
    """Lines that end a sentence, short lines, repeated lines, and lists. ``stats`` knows the short lines."""
    repeated = stats["dup_full_line_chars"] / np.maximum(stats["chars"] - stats["line_feeds"], 1)
    return [
        at_least(FINEWEB, "ended_lines", stats.ratio("ended_lines", "full_lines"), config.min_ended_lines),
        at_most(FINEWEB, "short_lines", stats.ratio("short_lines", "full_lines"), config.max_short_lines),
        at_most(FINEWEB, "duplicate_characters", repeated, config.max_duplicate_characters),
        at_most(FINEWEB, "lines_per_word", stats.ratio("line_feeds", "words"), config.max_lines_per_word),
    ]

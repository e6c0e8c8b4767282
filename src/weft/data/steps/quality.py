"""Step 6: quality of text by published rules, chosen by language; statistics are measured once for all sets.

C4's rules come first, because they remove lines; the other sets judge what is left. Each dropped document has
the set as reason and the rule with its figure as value; lines that C4's rules removed are counted beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.data import kinds
from weft.data.config_quality import QualityConfig, RuleSet
from weft.data.engine import batch_function, daft
from weft.data.rules import Rule, Verdicts, apply, no_verdicts
from weft.data.schema import KIND, LANGUAGE, REASON, TEXT, VALUE
from weft.data.steps import c4, gopher
from weft.data.steps.chinese import REPETITION, chinese
from weft.data.steps.fineweb import fineweb
from weft.data.textstats import TextStats, text_stats

C4_LINES = "c4_lines"
"""Lines removed by C4's rules, a struct of one int64 a rule."""

_T = daft.DataType
_LINES = _T.struct({name: _T.int64() for name in c4.REMOVED})
_JUDGED = _T.struct({TEXT: _T.string(), REASON: _T.string(), VALUE: _T.string(), C4_LINES: _LINES})


def judge_quality(frame: Any, config: QualityConfig) -> Any:
    """Set reason and value by the sets of ``config``, text where C4's rules removed lines, and c4_lines."""
    if not (config.english or config.chinese or config.other):
        return frame
    col = daft.col
    judged = _judge(col(TEXT), col(KIND), col(LANGUAGE), col(REASON), col(VALUE), config)
    frame = frame.with_column("judged", judged)
    names = (TEXT, REASON, VALUE, C4_LINES)
    return frame.with_columns({name: col("judged").get(name) for name in names}).exclude("judged")


@batch_function(_JUDGED, rows=256)
def _judge(texts: Any, sorts: Any, languages: Any, reasons: Any, values: Any, config: QualityConfig) -> Any:
    whole, before = texts.to_arrow().cast(pa.large_string()), reasons.to_arrow().cast(pa.large_string())
    prose = pc.and_(pc.is_null(before), pc.fill_null(pc.not_equal(sorts.to_arrow(), kinds.CODE), True))
    which = sets_of(languages.to_arrow().to_pylist(), config)
    which[~np.asarray(prose)] = -1
    changed, (new_reasons, new_values), removed = judge_texts(whole, which, config)
    lines = [pa.array(removed[:, number]) for number in range(len(c4.REMOVED))]
    columns = [
        changed,
        pc.coalesce(before, pa.array(new_reasons, pa.large_string())),
        pc.coalesce(values.to_arrow().cast(pa.large_string()), pa.array(new_values, pa.large_string())),
        pa.StructArray.from_arrays(lines, names=list(c4.REMOVED)),
    ]
    return pa.StructArray.from_arrays(columns, names=[TEXT, REASON, VALUE, C4_LINES])


def sets_of(languages: Sequence[str | None], config: QualityConfig) -> npt.NDArray[np.int64]:
    """For each document [N] which of english (0), chinese (1) and other (2) judges it."""
    index = {"en": 0, "latin": 0, "zh": 1, "zh-Hant": 1, "han": 1}
    return np.array([index.get(language or "", 2) for language in languages], np.int64)


def judge_texts(
    texts: pa.Array, which: npt.NDArray[np.int64], config: QualityConfig
) -> tuple[pa.Array, Verdicts, npt.NDArray[np.int64]]:
    """``(texts, verdicts, lines removed by C4's rules)`` of a large_string array [N].

    ``which`` int64 [N] is 0, 1 or 2 for the sets english, chinese and other, -1 for text that none judges.
    """
    sets = (config.english, config.chinese, config.other)
    verdicts = no_verdicts(len(texts))
    removed = np.zeros((len(texts), len(c4.REMOVED)), np.int64)
    for number, names in enumerate(sets):
        rows = np.flatnonzero(which == number)
        if not len(rows) or not names:
            continue
        chosen = texts.take(pa.array(rows))
        found = no_verdicts(len(rows))
        if c4.C4 in names:
            cleaned = c4.clean(chosen, config.c4)
            chosen, removed[rows] = cleaned.texts, cleaned.removed
            found[1][:] = cleaned.values
            found[0][found[1] != None] = c4.C4  # noqa: E711, elementwise
            mask = np.zeros(len(texts), np.bool_)
            mask[rows] = True
            texts = pc.replace_with_mask(texts, pa.array(mask), chosen)
        stats = text_stats(chosen, config.gopher.stop_words, config.fineweb.short_line)
        for name in names:
            apply(_rules(name, chosen, stats, config), found)
        verdicts[0][rows], verdicts[1][rows] = found
    return texts, verdicts, removed


def _rules(name: RuleSet, texts: pa.Array, stats: TextStats, config: QualityConfig) -> list[Rule]:
    if name == gopher.QUALITY:
        return gopher.quality(stats, config.gopher)
    if name == gopher.REPETITION:
        return gopher.repetition(stats, config.repetition)
    if name == REPETITION:
        return gopher.repetition(stats, config.zh_repetition, REPETITION)
    if name == "chinese":
        return chinese(texts, stats, config.zh)
    if name == "fineweb":
        return fineweb(stats, config.fineweb)
    return []

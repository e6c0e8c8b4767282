"""Step 7: text that a classifier (:mod:`weft.data.classifier`) scores below a threshold is dropped."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weft.data import kinds
from weft.data.classifier import CONFIG, Classifier
from weft.data.config_quality import ClassifierConfig
from weft.data.engine import batch_function, daft
from weft.data.schema import KIND, REASON, TEXT, VALUE

CLASSIFIER = "classifier"
SCORE = "quality_score"
"""The score of each text, null of code and of what was dropped before."""


def drop_by_classifier(frame: Any, config: ClassifierConfig) -> Any:
    """Add quality_score and set the reason ``classifier`` below the threshold, with the score as value.

    Raises DataError when the classifier cannot be read.
    """
    if config.path is None:
        return frame
    folder = Path(config.path)
    Classifier.load(folder)
    col, lit = daft.col, daft.lit
    # With its time, because a worker keeps what it has read under this name.
    name = f"{(folder / CONFIG).stat().st_mtime_ns} {folder}"
    frame = frame.with_column(SCORE, _score(col(TEXT), col(KIND), col(REASON), name))
    low = col(REASON).is_null() & (col(SCORE) < config.threshold).fill_null(False)
    return frame.with_columns(
        {
            REASON: daft.functions.when(low, lit(CLASSIFIER)).otherwise(col(REASON)),
            VALUE: daft.functions.when(low, col(SCORE).cast(daft.DataType.string())).otherwise(col(VALUE)),
        }
    )


@batch_function(daft.DataType.float64(), rows=256)
def _score(texts: Any, sorts: Any, reasons: Any, name: str) -> Any:
    whole = texts.to_arrow().cast(pa.large_string())
    prose = pc.fill_null(pc.not_equal(sorts.to_arrow(), kinds.CODE), True)
    prose = pc.and_(pc.and_(prose, pc.is_valid(whole)), pc.is_null(reasons.to_arrow()))
    scores = np.full(len(whole), np.nan)
    scores[np.asarray(prose)] = _load(name).score(whole.filter(prose)).astype(np.float64).round(4)
    return pa.array(scores, from_pandas=True)


@functools.lru_cache(2)
def _load(name: str) -> Classifier:
    return Classifier.load(Path(name.partition(" ")[2]))

"""ROUGE-1, ROUGE-2 and ROUGE-L of summaries through the package rouge-score (Lin 2004).

English is compared by words under Porter's stemmer, as papers on CNN/DailyMail and SAMSum do. Chinese has no
spaces: it is compared by characters, with Latin words and numbers whole, as papers on LCSTS do (Hu et al.
2015, arXiv:1506.05865).

The package is imported when it is first needed: it brings NLTK, which takes seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError, ResourceError
from weft.data.terms import pieces

Language = Literal["en", "zh"]
Floats = npt.NDArray[np.float64]

_KINDS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Rouge:
    """Mean F1 of each kind from 0 to 1; ``each`` float64 [documents, 3]: ROUGE-1, 2 and L of every one."""

    rouge1: float
    rouge2: float
    rouge_l: float
    each: Floats


class Pieces:
    """The tokenizer for Chinese; rouge-score asks for an object with this method."""

    def tokenize(self, text: str) -> list[str]:
        """See :func:`weft.data.terms.pieces`."""
        return pieces(text)


def rouge(references: Sequence[str], found: Sequence[str], language: Language = "en") -> Rouge:
    """Compare every summary with its reference; one without a word scores 0.

    DataError for no summaries or unequal numbers of them.
    """
    if not references or len(references) != len(found):
        raise DataError(
            f"{len(references)} references got {len(found)} summaries; give one for each, at least one."
        )
    scorer = _scorer(language)
    rows = []
    for reference, summary in zip(references, found, strict=True):
        scores = scorer.score(reference, summary)
        rows.append([scores[kind].fmeasure for kind in _KINDS])
    each = np.array(rows, dtype=np.float64)
    one, two, longest = each.mean(axis=0).tolist()
    return Rouge(one, two, longest, each)


def _scorer(language: Language) -> Any:
    try:
        package = importlib.import_module("rouge_score.rouge_scorer")
    except ImportError:
        message = "ROUGE needs the package rouge-score; install it with: pip install 'weft[eval]'."
        raise ResourceError(message) from None
    if language == "zh":
        return package.RougeScorer(_KINDS, tokenizer=Pieces())
    return package.RougeScorer(_KINDS, use_stemmer=True)

"""A rule of quality: a figure of every document, and for which of them it breaks a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Figures = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Verdicts = tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]
"""Reason and value of each document [N], None where no rule was broken."""


@dataclass(frozen=True)
class Rule:
    """``figure`` [N] is what a dropped document's value says, ``broken`` [N] which are dropped."""

    reason: str
    name: str
    figure: Figures
    broken: Mask


def at_least(reason: str, name: str, figure: Figures, limit: float) -> Rule:
    """Broken below ``limit``."""
    return Rule(reason, name, figure, figure < limit)


def at_most(reason: str, name: str, figure: Figures, limit: float) -> Rule:
    """Broken above ``limit``."""
    return Rule(reason, name, figure, figure > limit)


def no_verdicts(count: int) -> Verdicts:
    """Nothing dropped yet."""
    return np.full(count, None, object), np.full(count, None, object)


def apply(rules: Sequence[Rule], verdicts: Verdicts) -> None:
    """Write the first broken rule of each document that has no reason yet."""
    reasons, values = verdicts
    for rule in rules:
        for row in np.flatnonzero(rule.broken & (reasons == None)):  # noqa: E711, elementwise
            reasons[row], values[row] = rule.reason, f"{rule.name} {rule.figure[row]:.4g}"

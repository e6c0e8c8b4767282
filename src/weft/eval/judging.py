"""Which of two answers is better, by a judge that is asked in both orders: wins, ties, losses.

A judge may like what it reads first (arXiv:2306.05685): each pair is shown both ways round, and where
the two verdicts disagree the pair is a tie.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError
from weft.data.conversations import Messages
from weft.eval.standing import MODEL, mean, standing

Floats = npt.NDArray[np.float64]

_WINNERS = {"first": 1.0, "second": -1.0, "tie": 0.0}


@dataclass(frozen=True)
class Pair:
    """Two answers to ``asked``, which is ``prompt`` as one text; ``where`` the question was read."""

    where: str
    asked: Messages
    prompt: str
    first: str
    second: str

    def turned(self) -> Pair:
        """The answers the other way round."""
        return Pair(self.where, self.asked, self.prompt, self.second, self.first)


class Judge(Protocol):
    """Says which answer of each pair is better."""

    def __call__(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Above 0: the first; below 0: the second; 0: neither; None: not judged in this order."""
        ...


@dataclass(frozen=True)
class Verdicts:
    """float64 [N] ``values``: 1 where the first answer won, -1 where the second did, 0 where neither.

    ``equal`` answers were not shown to the judge; of the others ``disagreed`` got another verdict the other
    way round and ``once`` have only one.
    """

    values: Floats
    equal: int
    disagreed: int
    once: int

    def figures(self, *, seed: int = 0, draws: int = 2000) -> list[dict[str, Any]]:
        """Shares as :func:`weft.eval.standing.standing` gives them; the win rate has half of the ties."""
        won, lost = ((self.values == sign).astype(np.float64) for sign in (1, -1))
        shares = {"win_rate": (self.values + 1) / 2, "wins": won, "ties": 1 - won - lost, "losses": lost}
        found = [mean(name, values) for name, values in shares.items()]
        return standing({MODEL: found}, seed=seed, draws=draws)


def verdicts(judge: Judge, pairs: Sequence[Pair]) -> Verdicts:
    """Each pair in both orders. DataError for pairs that the judge has not judged in either."""
    asked = [place for place, pair in enumerate(pairs) if pair.first != pair.second]
    shown = [pairs[place] for place in asked]
    found = judge([*shown, *(pair.turned() for pair in shown)])
    straight, turned = found[: len(shown)], found[len(shown) :]
    missing = [
        pair
        for pair, one, other in zip(shown, straight, turned, strict=True)
        if one is None and other is None
    ]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(shown):,} pairs have no verdict, the first of them {missing[0].where} "
            f"({missing[0].prompt[:60]!r}); judge them too."
        )
    values, disagreed, once = np.zeros(len(pairs)), 0, 0
    for place, one, other in zip(asked, straight, turned, strict=True):
        signs = {float(np.sign(one))} if one is not None else set()
        signs |= {-float(np.sign(other))} if other is not None else set()
        # 0.0 and -0.0 are one element of a set.
        disagreed += len(signs) > 1
        once += one is None or other is None
        values[place] = signs.pop() if len(signs) == 1 else 0.0
    return Verdicts(values, len(pairs) - len(asked), disagreed, once)


class VerdictFile:
    """A judge that has judged already: JSON Lines of ``prompt``, ``first``, ``second`` and ``winner``.

    ``winner`` is first, second or tie; null is a pair that is still to be judged. Several verdicts on the
    same answers in the same order are votes. DataError for a file that is broken or without verdicts.
    """

    def __init__(self, file: Path):
        self._votes: dict[tuple[str, str, str], float] = {}
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"The verdicts {file} cannot be read ({error}); give JSON Lines.") from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._add(f"{file} line {number}", line)
        if not self._votes:
            raise DataError(f"{file} holds no verdicts; write first, second or tie as winner of each pair.")

    def __call__(self, pairs: Sequence[Pair]) -> list[float | None]:
        """See :class:`Judge`."""
        return [self._votes.get((pair.prompt, pair.first, pair.second)) for pair in pairs]

    def _add(self, where: str, line: str) -> None:
        try:
            record = json.loads(line)
            key = (record["prompt"], record["first"], record["second"])
            winner = record["winner"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise DataError(
                f"{where} is no verdict; a line is an object of prompt, first, second and winner."
            ) from None
        if winner is None:
            return
        texts = all(isinstance(text, str) for text in key)
        if not texts or not isinstance(winner, str) or winner not in _WINNERS:
            raise DataError(
                f"{where}: winner = {winner!r} must be first, second or tie, and the others texts."
            )
        self._votes[key] = self._votes.get(key, 0.0) + _WINNERS[winner]

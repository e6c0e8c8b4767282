"""Judges that are asked now: a function of a Python file, and how likely another model finds the answers."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from weft.core.errors import UsageError
from weft.eval.answer_loss import answer_losses
from weft.eval.chats import Chat, encoded
from weft.eval.judging import Pair
from weft.models import Decoder
from weft.tokenizer import Tokenizer
from weft.tokenizer.answers import Encoded

NAME = "judge"


class PythonJudge:
    """``judge(prompt, first, second)`` of a Python file, which runs here with all rights of its user.

    UsageError for a file that cannot be run or has no such function, for a function that raises, and for what
    it returns beside a finite number.
    """

    def __init__(self, file: Path):
        self._file, self._judge = file, _function(file)

    def __call__(self, pairs: Sequence[Pair]) -> list[float | None]:
        """See :class:`weft.eval.judging.Judge`."""
        return [self._one(pair) for pair in pairs]

    def _one(self, pair: Pair) -> float:
        try:
            found = self._judge(pair.prompt, pair.first, pair.second)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise UsageError(f"{NAME}() of {self._file} failed on {pair.where} ({told}); mend it.") from error
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise UsageError(
                f"{NAME}() of {self._file} returned {found!r} for {pair.where}; return a number: above 0 "
                "where the first answer is better, below 0 where the second is, 0 for neither."
            )
        return float(found)


class LikelihoodJudge:
    """Prefers what a chat model finds likelier: the higher mean log probability of the tokens of an answer.

    It judges likeness to what that model would write, not truth. An answer that its context does not hold
    scores lowest. ``load`` is called when it is asked, so that it stands beside no other model in memory.
    """

    def __init__(self, load: Callable[[], tuple[Decoder, Tokenizer]]):
        self._load = load

    def __call__(self, pairs: Sequence[Pair]) -> list[float | None]:
        """See :class:`weft.eval.judging.Judge`."""
        asked: dict[tuple[str, str, str], Chat] = {}
        for pair in pairs:
            for text in (pair.first, pair.second):
                asked[pair.where, pair.prompt, text] = Chat(pair.where, pair.asked, text)
        scores = dict(zip(asked, self._scores(list(asked.values())), strict=True))
        return [
            _difference(
                scores[pair.where, pair.prompt, pair.first], scores[pair.where, pair.prompt, pair.second]
            )
            for pair in pairs
        ]

    def _scores(self, chats: list[Chat]) -> list[float]:
        model, tokenizer = self._load()
        # The last answer alone is judged: what was said before is the same in both.
        conversations = [Encoded(one.ids, one.answers[-2:]) for one in encoded(tokenizer, chats)]
        losses = answer_losses(model, tokenizer, conversations)
        return [
            -nats / tokens if tokens else -math.inf
            for nats, tokens in zip(losses.nats.tolist(), losses.tokens.tolist(), strict=True)
        ]


def _difference(first: float, second: float) -> float:
    return 0.0 if first == second else first - second


def _function(file: Path) -> Callable[..., Any]:
    found = getattr(_run(file), NAME, None)
    if not callable(found):
        raise UsageError(f"{file} has no function {NAME}(prompt, first, second); write one.")
    judge: Callable[..., Any] = found
    return judge


def _run(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("weft_judge_file", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} cannot be run as Python; give a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{file} cannot be run ({type(error).__name__}: {error}); mend it.") from error
    return module

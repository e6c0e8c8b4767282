"""The same protocol for lm-evaluation-harness itself, where that package is installed.

``lm_eval.simple_evaluate(model=adapter(model), tasks=[...])`` then runs any of its tasks. The package is
imported only here and only when asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from weft.core.errors import ResourceError
from weft.eval.protocol import GenerateRequest, LanguageModel, LikelihoodRequest

MOST_NEW_TOKENS = 256
"""Of a generation whose task does not say, as in the harness."""


def adapter(model: LanguageModel) -> Any:
    """``model`` as an ``lm_eval.api.model.LM``. ResourceError where lm-eval is not installed."""
    try:
        base = importlib.import_module("lm_eval.api.model").LM
    except ImportError:
        message = "Tasks of lm-evaluation-harness need its package; install it with: pip install lm-eval."
        raise ResourceError(message) from None

    class Adapted(base):  # type: ignore[misc,valid-type]
        """Requests have ``args``: (context, continuation), (text,) or (context, settings)."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """(log-probability, whether greedy) of each continuation."""
            asked = [LikelihoodRequest(*request.args) for request in requests]
            return [(one.log_probability, one.is_greedy) for one in model.loglikelihood(asked)]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """The log-probability of each text."""
            return model.loglikelihood_rolling([request.args[0] for request in requests])

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """The new text of each."""
            return [one.text for one in model.generate_until([_asked(*one.args) for one in requests])]

    return Adapted()


def _asked(context: str, settings: dict[str, Any]) -> GenerateRequest:
    until = settings.get("until") or ()
    return GenerateRequest(
        context,
        (until,) if isinstance(until, str) else tuple(until),
        int(settings.get("max_gen_toks", MOST_NEW_TOKENS)),
        float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0,
    )

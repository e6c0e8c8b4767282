"""Benchmarks of language models from local files, through the three-method protocol.

Prompts and figures are those of lm-evaluation-harness (Gao et al. 2023, zenodo.10256836), so that figures can
be compared; nothing is downloaded. LAMBADA: Paperno et al. 2016 (arXiv:1606.06031), as it was written.
Multiple choice: MMLU (arXiv:2009.03300) and CMMLU (arXiv:2306.09212) by the letter, ARC (arXiv:1803.05457),
OpenBookQA (arXiv:1809.02789) and PIQA (arXiv:1911.11641) by the text of the option.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weft.core.errors import UsageError
from weft.core.registry import lookup
from weft.eval.harness_files import Choice, Passage, arc, cmmlu, mmlu, openbookqa, passages, piqa
from weft.eval.protocol import LanguageModel, Likelihood, LikelihoodRequest
from weft.eval.standing import MODEL, Floats, Measure, mean, quotient, standing

Advance = Callable[[float], None]

LAMBADA = "lambada"
CHOICES: dict[str, Callable[[Path, int], list[Choice]]] = {
    "mmlu": mmlu,
    "cmmlu": cmmlu,
    "arc": arc,
    "openbookqa": openbookqa,
    "piqa": piqa,
}
NAMES = (LAMBADA, *CHOICES)

_TOGETHER = 64
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+\b")
"""A capitalised word inside a sentence."""


def evaluate(
    model: LanguageModel,
    name: str,
    file: Path,
    shots: int = 0,
    limit: int = 0,
    advance: Advance = lambda amount: None,
) -> dict[str, Any]:
    """The figures of one benchmark, see :func:`weft.eval.standing.standing`, beside its baselines.

    ``limit``: only so many items from the start, 0 is all. ``advance`` hears how many requests were done.
    UsageError for an unknown benchmark, DataError for files in another format.
    """
    lookup(dict.fromkeys(NAMES), name, "benchmark")
    if name == LAMBADA:
        if shots:
            raise UsageError("LAMBADA has no solved examples; leave --harness-shots out.")
        found = passages(file)
        record = _words(model, found[: limit or len(found)], advance)
    else:
        choices = CHOICES[name](file, shots)
        record = _choices(model, choices[: limit or len(choices)], name in ("mmlu", "cmmlu"), advance)
    return {"benchmark": name, "shots": shots, "limit": limit, **record}


def _words(model: LanguageModel, found: Sequence[Passage], advance: Advance) -> dict[str, Any]:
    """Accuracy: each token of the last word is the likeliest. Perplexity: of that word."""
    answers = _likelihoods(model, [LikelihoodRequest(one.context, one.word) for one in found], advance)
    logs = np.array([answer.log_probability for answer in answers])
    hits = np.array([answer.is_greedy for answer in answers], np.float64)
    named = np.array([_last_name(one.context) == one.word.strip() for one in found], np.float64)
    systems = {
        MODEL: [mean("accuracy", hits), _perplexity(logs)],
        "last name": [mean("accuracy", named)],
    }
    return {"items": len(found), "figures": standing(systems)}


def _choices(
    model: LanguageModel, found: Sequence[Choice], letters: bool, advance: Advance
) -> dict[str, Any]:
    """Accuracy of the likeliest option, and of that after division by its characters."""
    requests = [LikelihoodRequest(one.context, option) for one in found for option in one.options]
    answers = iter(_likelihoods(model, requests, advance))
    logs = [np.array([next(answers).log_probability for _ in one.options]) for one in found]
    sizes = [np.array([len(text) for text in one.texts], np.float64) for one in found]
    hits = _right(found, logs)
    longest, chance = mean("accuracy", _right(found, sizes)), mean("accuracy", _chance(found))
    systems = {MODEL: [mean("accuracy", hits)], "longest": [longest], "chance": [chance]}
    if not letters:
        scaled = [each / np.maximum(size, 1) for each, size in zip(logs, sizes, strict=True)]
        systems[MODEL].append(mean("accuracy_by_length", _right(found, scaled)))
        for name in ("longest", "chance"):
            one = systems[name][0]
            systems[name].append(Measure("accuracy_by_length", one.columns, one.of))
    record: dict[str, Any] = {"items": len(found), "figures": standing(systems)}
    groups = np.array([one.group for one in found])
    if len(set(groups.tolist())) > 1:
        inside = {name: (groups == name).astype(np.float64) for name in sorted(set(groups.tolist()))}
        parts = [quotient(name, hits * each, each) for name, each in inside.items()]
        record["by_group"] = standing({MODEL: parts})
    return record


def _likelihoods(
    model: LanguageModel, requests: Sequence[LikelihoodRequest], advance: Advance
) -> list[Likelihood]:
    found: list[Likelihood] = []
    for first in range(0, len(requests), _TOGETHER):
        batch = requests[first : first + _TOGETHER]
        found += model.loglikelihood(batch)
        advance(len(batch))
    return found


def _right(found: Sequence[Choice], scores: Sequence[Floats]) -> Floats:
    """1 where the highest score, the first of equals, is that of the right option."""
    return np.array(
        [int(each.argmax()) == one.gold for one, each in zip(found, scores, strict=True)], np.float64
    )


def _chance(found: Sequence[Choice]) -> Floats:
    return np.array([1 / len(one.options) for one in found])


def _perplexity(logs: Floats) -> Measure:
    columns = np.stack([logs, np.ones(len(logs))], axis=1)

    def of(sums: Floats) -> Floats:
        found: Floats = np.exp(-sums[:, 0] / sums[:, 1])
        return found

    return Measure("perplexity", columns, of, "plain", lower=True)


def _last_name(context: str) -> str:
    """The last name, as the paper's baselines take capitalised words; empty where there is none."""
    found = _NAME.findall(context)
    return found[-1] if found else ""

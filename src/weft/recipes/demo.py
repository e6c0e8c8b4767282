"""The whole way on this machine: the source of the running Python's library becomes a model that writes it.

``OUT/data`` (documents, tokenizer, shards), ``OUT/run`` (the training run and its model), ``OUT/eval.json``,
``OUT/samples.json``, ``OUT/report.html`` and, last, ``OUT/manifest.json``. Every step skips what is done, so
an interrupted demo continues.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weft import api
from weft.core import config, manifest
from weft.core.files import write_text_atomic
from weft.data.config import DataConfig, PersonalConfig, ReadConfig, SplitConfig, TokenizerConfig
from weft.data.prepare import prepare
from weft.data.sources import standard_library
from weft.eval.runner import EvalConfig, evaluate
from weft.recipes.report import write_report
from weft.train.config import DataSection, OptimizerSection, TrainRun, TrainSection
from weft.train.session import train

Say = Callable[[str], None]

PROMPTS = ("def read_lines(path):\n", "class Stack:\n", "import os\n", 'if __name__ == "__main__":\n')
SAMPLE_TOKENS = 96


def data_config() -> DataConfig:
    """The corpus of the demo: Python source.

    Folders of tests stay out: many distributions of Python leave them off, and the demo should learn the
    same text everywhere. 4,096 tokens, because at this size the output matrix is a large part of the work
    (docs/experiments.md). 6 % of the documents test the model, so that the intervals mean something.
    """
    defaults = ReadConfig()
    return DataConfig(
        read=ReadConfig(exclude=(*defaults.exclude, "test", "tests", "idle_test"), suffixes=(".py",)),
        # Published source: the addresses in it are its authors' own signatures.
        personal=PersonalConfig(enabled=False),
        split=SplitConfig(valid=0.02, test=0.06),
        tokenizer=TokenizerConfig(vocab_size=4096),
    )


def train_run(data: Path, budget: str) -> TrainRun:
    """The training run of the demo: only the budget is set, all sizes follow from it."""
    return TrainRun(
        data=DataSection(path=str(data)),
        train=TrainSection(budget=budget),
        optimizer=OptimizerSection(),
    )


def demo(out: Path, budget: str, say: Say) -> dict[str, Any]:
    """Walk the whole way within the budget for training; returns the manifest of ``out``."""
    config.duration(budget)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    say(f"1/4 data: {standard_library()}")
    data = prepare(data_config(), [standard_library()], out / "data")
    seconds["data"] = time.perf_counter() - began
    say(f"2/4 training: {budget}")
    trained = train(train_run(out / "data", budget), out / "run", say=say)
    seconds["training"] = time.perf_counter() - began - sum(seconds.values())
    say("3/4 evaluation")
    measured = _evaluate(out, say)
    seconds["evaluation"] = time.perf_counter() - began - sum(seconds.values())
    say("4/4 samples and report")
    samples = _samples(out)
    seconds["samples"] = time.perf_counter() - began - sum(seconds.values())
    figures = {
        "data": data["figures"],
        "training": trained["figures"],
        "evaluation": measured,
        "samples": samples,
        "seconds": seconds,
        "total_seconds": sum(seconds.values()),
    }
    record = manifest.write(
        out,
        command="demo",
        config=f'budget = "{budget}"\n',
        inputs={"data": manifest.NAME, "run": manifest.NAME},
        figures=figures,
        outputs=("data/manifest.json", "run/manifest.json", "eval.json", "samples.json"),
    )
    write_report(out, out / "report.html")
    return record


def _evaluate(out: Path, say: Say) -> dict[str, Any]:
    file = out / "eval.json"
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    model = api.load(out / "run", max_sequences=32)
    record = evaluate(
        model.llm.runner.model, model.tokenizer, out / "data", model.generate_until, EvalConfig(), say
    )
    write_text_atomic(file, json.dumps(record, indent=1) + "\n")
    return record


def _samples(out: Path) -> list[dict[str, str]]:
    file = out / "samples.json"
    if file.exists():
        found: list[dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
        return found
    model = api.load(out / "run")
    samples = [
        {
            "prompt": prompt,
            "text": model.complete(prompt, max_new_tokens=SAMPLE_TOKENS, temperature=0.7, top_p=0.95, seed=0)[
                0
            ].text,
        }
        for prompt in PROMPTS
    ]
    write_text_atomic(file, json.dumps(samples, ensure_ascii=False, indent=1) + "\n")
    return samples

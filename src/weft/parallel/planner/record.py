"""After a real run: how far off the planner was, said in a line and kept in a file."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.core.files import disk_errors
from weft.parallel.planner.calibration import folder
from weft.parallel.planner.estimate import Prediction

FILE = "planner-errors.jsonl"


@dataclass(frozen=True)
class Measured:
    """Of a real run: the median ``seconds`` of a step, the largest rank's peak ``memory`` in bytes."""

    seconds: float
    memory: float


def error(predicted: float, measured: float) -> float:
    """Relative, signed: positive where the planner foretold too much."""
    return predicted / measured - 1.0


def judge(prediction: Prediction, measured: Measured) -> str:
    """One line: foretold, found and the error of both."""
    time_error = error(prediction.step.total, measured.seconds)
    memory_error = error(prediction.memory.total, measured.memory)
    return (
        f"the planner foretold {prediction.step.total:.3f} s a step and "
        f"{prediction.memory.total / 2**20:,.0f} MiB for {prediction.plan}; found {measured.seconds:.3f} s "
        f"({100 * time_error:+.1f} %) and {measured.memory / 2**20:,.0f} MiB ({100 * memory_error:+.1f} %)"
    )


def entry(prediction: Prediction, measured: Measured) -> dict[str, Any]:
    """The same for the file."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "plan": str(prediction.plan),
        "micro_rows": prediction.micro_rows,
        "tokens": prediction.tokens,
        "predicted_seconds": prediction.step.total,
        "seconds": measured.seconds,
        "predicted_bytes": prediction.memory.total,
        "bytes": measured.memory,
        "time_error": error(prediction.step.total, measured.seconds),
        "memory_error": error(prediction.memory.total, measured.memory),
    }


def keep(prediction: Prediction, measured: Measured, file: Path | None = None) -> Path:
    """Append to ``file``, by default one beside this machine's calibration; returns it."""
    target = file or folder() / FILE
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry(prediction, measured), ensure_ascii=False) + "\n")
    return target

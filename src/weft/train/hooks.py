"""What happens beside the steps: records of them, on disk and on the console."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from weft.core.files import disk_errors, write_bytes_atomic
from weft.core.progress import Progress

Record = dict[str, Any]


class Hook(Protocol):
    """Called by the loop after every step and once at the end."""

    def after_step(self, record: Record) -> None:
        """``record`` holds step (from 1), loss, learning_rate, tokens_per_second, ..."""
        ...

    def close(self) -> None:
        """The loop has ended, however it did."""
        ...


class MetricsLog:
    """metrics.jsonl, one object a step; on resume the lines past the checkpoint are cut off."""

    def __init__(self, file: Path, resume_step: int):
        if file.exists():
            kept = [line for line in file.read_bytes().splitlines(True) if _step_of(line) <= resume_step]
            write_bytes_atomic(file, b"".join(kept))
        self._file = file
        self._stream = file.open("ab")

    def after_step(self, record: Record) -> None:
        """Append the record; the operating system has it when this returns."""
        with disk_errors(self._file):
            self._stream.write(json.dumps(record).encode() + b"\n")
            self._stream.flush()

    def close(self) -> None:
        """Make the file durable."""
        with disk_errors(self._file):
            os.fsync(self._stream.fileno())
            self._stream.close()


class TensorBoard:
    """The same figures as TensorBoard events."""

    def __init__(self, folder: Path, resume_step: int):
        purge = resume_step + 1 if resume_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def after_step(self, record: Record) -> None:
        """Every number of the record as a scalar."""
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush the events."""
        self._writer.close()


class Console:
    """The live line: loss, rate, share of the machine's peak, time left."""

    def __init__(self, steps: int, resume_step: int):
        self._progress = Progress("train", total=steps - resume_step, unit="steps")
        self._smooth: float | None = None

    def after_step(self, record: Record) -> None:
        """Advance the line."""
        loss = record["loss"]
        self._smooth = loss if self._smooth is None else 0.95 * self._smooth + 0.05 * loss
        note = f"loss {self._smooth:.3f}, {record['tokens_per_second']:,.0f} tokens/s"
        if record.get("peak_share"):
            note += f", {100 * record['peak_share']:.0f} % of peak"
        if "validation_loss" in record:
            self._progress.say(f"step {record['step']}: validation loss {record['validation_loss']:.4f}")
        self._progress.advance(1, note)

    def close(self) -> None:
        """Clear the line."""
        self._progress.__exit__(None, None, None)


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        # Half a line of a killed run.
        return float("inf")

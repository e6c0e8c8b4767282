"""Why a run ended, in one sentence: from the fault report, the ranks' error files, or the agents' words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.core.errors import ResourceError, TrainingError, WeftError
from weft.recipes.launch.job import Job

REPORT = "report-fault.json"


def agent_log(job: Job, host: str) -> Path:
    """Where the agent of ``host`` itself speaks."""
    return job.logs / f"agent-{host}.log"


def fault(job: Job, codes: Mapping[str, int]) -> WeftError:
    """The error that ended ``job``; ``codes``: the agents' exit codes by host."""
    report = _read(job.out / REPORT)
    if report.get("run") == job.name and isinstance(report.get("sentence"), str):
        return TrainingError(report["sentence"])
    first = _first_error(job)
    if first is not None:
        return TrainingError(first)
    killed = _killed(job, codes)
    if killed is not None:
        return TrainingError(killed)
    host, code = next(((h, c) for h, c in codes.items() if c), ("", 0))
    return ResourceError(
        f"The agent on {host} ended with code {code}{_last_words(agent_log(job, host))}; all it said is in "
        f"{agent_log(job, host)}."
    )


def final(job: Job) -> bool:
    """Whether a fault has ended the job that would come again at every start."""
    report = _read(job.out / REPORT)
    return report.get("run") == job.name and bool(report.get("final"))


def passing(job: Job) -> str | None:
    """The sentence of the newest fault, when the agents will start the processes again after it."""
    report = _read(job.out / REPORT)
    again = not report.get("final") and report.get("attempt", job.restarts) < job.restarts
    return str(report.get("sentence")) if report.get("run") == job.name and again else None


def _first_error(job: Job) -> str | None:
    """The message of the rank that failed first in the newest attempt."""
    found: list[tuple[int, int, str]] = []
    for file in job.logs.glob(f"{job.name}_*/attempt_*/*/error.json"):
        message = _read(file).get("message")
        if isinstance(message, dict):
            attempt = int(file.parent.parent.name.removeprefix("attempt_"))
            moment = int(message.get("extraInfo", {}).get("timestamp", 0))
            found.append((-attempt, moment, str(message.get("message", ""))))
    return min(found)[2] if found else None


def _killed(job: Job, codes: Mapping[str, int]) -> str | None:
    """What the agents' summary says of a process that could not speak for itself."""
    for host in codes:
        text = _text(agent_log(job, host))
        found = re.findall(r"rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+)", text)
        if found:
            rank, code = found[-1]
            how = f"was killed by signal {-int(code)}" if int(code) < 0 else f"ended with code {code}"
            return (
                f"Rank {rank} on {host} {how} without a word; what it had said is below {job.logs}, and the "
                "same command continues from the newest checkpoint."
            )
    return None


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in _text(log).splitlines() if line.strip()]
    return f" ({lines[-1][:200]})" if lines else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(_text(file) or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}

"""The fault report: ``RUN/report-fault.json``, and torch's own error file, both with the one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.core.files import write_text_atomic

NAME = "report-fault.json"


def round_name() -> str:
    """This start of the processes: every restart has another. Empty when no agent started this process."""
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    return "-".join(os.environ[name] for name in names) if all(map(os.environ.get, names)) else ""


def attempt() -> int:
    """How often the agent of this host has started its processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@dataclass(frozen=True)
class Fault:
    """``final``: starting again would end the same way, so the processes of a restart end at once."""

    kind: str
    ranks: tuple[int, ...]
    step: int
    collective: str
    sentence: str
    final: bool
    told_by: int

    def write(self, folder: Path, beats: list[dict[str, Any]], trace: str = "") -> bool:
        """Write the report unless another rank has done so for this start; whether this one did.

        The first to speak knows the cause: the others only lost their connection to it.
        """
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        own = {**vars(self), "run": os.environ.get("TORCHELASTIC_RUN_ID", ""), "round": round_name()}
        record = {**own, "attempt": attempt(), "written": written, "trace": trace, "ranks_seen": beats}
        text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
        with contextlib.suppress(OSError):
            kept = folder / "faults"
            kept.mkdir(exist_ok=True)
            own_file = kept / f".{os.getpid()}.tmp"
            own_file.write_text(text, encoding="utf-8")
            try:
                # A link fails where a file stands: that is what makes the first one win.
                os.link(own_file, kept / f"{round_name().replace('/', '_') or 'alone'}.json")
            except FileExistsError:
                return False
            finally:
                own_file.unlink(missing_ok=True)
        with contextlib.suppress(Exception):
            write_text_atomic(folder / NAME, text)
        return True


def tell_agent(sentence: str, error: BaseException | None = None) -> None:
    """Write the sentence where torchrun looks for a failed process's words."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file or Path(file).exists():
        return
    trace = "".join(traceback.format_exception(error)) if error is not None else ""
    extra = {"py_callstack": trace, "timestamp": str(int(time.time()))}
    with contextlib.suppress(OSError):
        Path(file).write_text(json.dumps({"message": {"message": sentence, "extraInfo": extra}}))


def ended_for_good(folder: Path) -> str | None:
    """The sentence of a final fault of an earlier start of this run, if this is a restart after it."""
    if not attempt():
        return None
    try:
        record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = record.get("run") == os.environ.get("TORCHELASTIC_RUN_ID") and record.get("round") != round_name()
    return str(record["sentence"]) if same and record.get("final") else None

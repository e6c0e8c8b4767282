"""Ctrl-C: exit code 130 and one sentence, whatever the verb was doing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from weft.cli.main import main
from weft.data.sources import standard_library


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, whose data lies beside it."""
    folder = tmp_path_factory.mktemp("trained")
    sources = [str(standard_library() / name) for name in ("json", "email", "http")]
    prepare = ["data", *sources, "--out", str(folder / "data"), "tokenizer.vocab_size=512", "split.test=0.3"]
    # No budget: on a machine that others keep busy none is long enough.
    sizes = ["train.steps=20", "train.batch_tokens=2048", "model.hidden_size=96"]
    run = ["train", "--data", str(folder / "data"), "--out", str(folder / "run"), *sizes]
    for arguments in (prepare, run):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    return folder / "run"


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "weft", *(str(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Press Ctrl-C; what the process wrote to standard error, which must be a sentence at its end."""
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.rstrip().splitlines()[-1].startswith("weft: Interrupted"), errors
    return errors


def wait_for_library(process: subprocess.Popen[str], name: str) -> None:
    """Until the process has mapped a library: a moment in its imports, however slow the machine is."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if name in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8"):
            return
        time.sleep(0.005)


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="needs /proc to see what a process has loaded"
)
@pytest.mark.parametrize("seconds", [0.0, 5.0], ids=["while it loads", "while it works"])
@pytest.mark.parametrize("verb", ["eval", "generate"])
def test_measuring_and_generating_stop_with_one_sentence(trained: Path, verb: str, seconds: float) -> None:
    if verb == "eval":
        process = start("eval", trained, "--prompts", 50_000, "--json", trained.parent / "eval.json")
    else:
        process = start("generate", trained, "--prompt", "def ", "--num-samples", 50_000, "--seed", 1)
    wait_for_library(process, "libtorch_cpu")
    time.sleep(seconds)
    assert process.poll() is None
    interrupt(process)
    assert not (trained.parent / "eval.json").exists()


SWALLOWING = """
try:
    import time
    print("importing", flush=True)
    time.sleep(60)
except:
    pass
"""


VERB = """
import types
from weft.cli.command import weft_command

helper = types.ModuleType("weft.cli.helper")
exec("def work():\\n    import swallowing", helper.__dict__)

@weft_command("verb")
def command():
    HERE
    print("it went on")

command()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["import swallowing", "helper.work()"])
def test_libraries_that_swallow_an_interrupt_while_they_are_imported_hold_up_nobody(
    tmp_path: Path, where: str, number: int
) -> None:
    """As a bare `except:` in one of them did: the work went on as if nobody had asked for its end."""
    (tmp_path / "swallowing.py").write_text(SWALLOWING)
    (tmp_path / "verb.py").write_text(VERB.replace("HERE", where))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "verb.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    assert interrupt(process, number) == "weft: Interrupted; run the same command again to continue.\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_interrupted_in_each_stage_goes_on_and_ends(tmp_path: Path) -> None:
    """Each start is stopped in the next stage; what earlier ones finished is not done again."""
    out = tmp_path / "demo"
    for stage, finished in ((1, None), (2, "data"), (3, "run"), (4, "eval.json")):
        process = start("demo", "--budget", "20s", "--out", out)
        assert process.stderr is not None
        said: list[str] = []
        while not said or not said[-1].startswith(f"{stage}/4"):
            said.append(process.stderr.readline())
            assert said[-1], f"it ended before stage {stage}: {''.join(said[-5:])}"
        # The last stage is over in a second, and a process that is leaving answers no more.
        time.sleep(1.0 if stage < 4 else 0.1)
        interrupt(process)
        if finished is not None:
            assert (out / finished).exists()
            assert not (out / "report.html").exists()
    process = start("demo", "--budget", "20s", "--out", out)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "already trained" in errors
    assert (out / "report.html").exists() and "bits per byte: model" in output


@pytest.mark.parametrize("budget", ["100ms", "10ms", "0s"])
def test_demo_says_that_a_budget_is_too_short(tmp_path: Path, budget: str) -> None:
    out = tmp_path / "demo"
    process = start("demo", "--budget", budget, "--out", out)
    _, errors = process.communicate(timeout=240)
    assert process.returncode in (1, 2)
    assert "Traceback" not in errors
    assert re.search(r"weft: .*(budget|duration)", errors), errors
    shutil.rmtree(out, ignore_errors=True)

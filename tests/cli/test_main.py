"""The frame of the command line: instant help, nearest names, records, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from weft.cli.command import weft_command
from weft.cli.main import VERBS, main
from weft.core.errors import DataError, Interrupted, UsageError


def weft(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weft", *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_every_verb_without_torch() -> None:
    code = (
        "import sys; from weft.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as e: assert e.code == 0\n"
        "assert not {'torch', 'daft', 'numpy', 'fastapi'} & set(sys.modules), 'too much imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_record(verb: str) -> None:
    result = CliRunner().invoke(main, [verb, "--help"])
    assert result.exit_code == 0
    if verb not in ("tokenizer", "tune", "key", "bench"):
        assert "--json" in result.output


def test_a_wrong_verb_suggests_the_right_one() -> None:
    done = weft("generat")
    assert done.returncode == 2 and "did you mean 'generate'?" in done.stderr


def test_a_wrong_option_suggests_the_right_one() -> None:
    done = weft("train", "--budgt", "5m")
    assert done.returncode == 2 and "--budget" in done.stderr


def test_a_wrong_key_suggests_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[train]\nbudgt = '5m'\n")
    done = weft("train", str(file), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "did you mean train.budget?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("no"), 1),
        (UsageError("no"), 2),
        (Interrupted("no"), 130),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "shut/file"), 1),
        (OSError("odd"), 1),
    ],
)
def test_errors_become_one_line_and_their_code(error: BaseException, code: int) -> None:
    @weft_command("trial")
    def command() -> None:
        """Fails."""
        raise error

    result = CliRunner().invoke(command)
    assert result.exit_code == code
    assert len(result.output.strip().splitlines()) == 1 and result.output.startswith("weft: ")


def test_the_record_goes_to_a_file_or_to_standard_output(tmp_path: Path) -> None:
    @weft_command("trial")
    @click.option("--name")
    def command(name: str) -> dict[str, str]:
        """Answers."""
        return {"name": name}

    expected = {"command": "trial", "name": "经纬"}
    result = CliRunner().invoke(command, ["--name", "经纬", "--json", "-"])
    assert json.loads(result.output) == expected
    file = tmp_path / "deep" / "record.json"
    CliRunner().invoke(command, ["--name", "经纬", "--json", str(file)])
    assert json.loads(file.read_text(encoding="utf-8")) == expected


def test_a_terminal_that_lacks_a_character_shows_its_number() -> None:
    @weft_command("trial")
    def command() -> dict[str, str]:
        """Writes."""
        click.echo("今天😀")
        return {"text": "今天😀"}

    result = CliRunner(charset="gbk").invoke(command, ["--json", "-"])
    assert result.exit_code == 0, result.output
    text, record = result.stdout.split("\n", 1)
    assert text == "今天\\U0001f600"
    assert json.loads(record)["text"] == "今天😀"


_READS_AND_WRITES = """
import sys, click
from weft.cli.command import weft_command
@weft_command("trial")
def command():
    "Reads and writes."
    click.echo(sys.stdin.read() + "x")
    sys.stdout.flush()
command()
"""


@pytest.mark.parametrize(
    ("redirect", "code", "written", "said"),
    [
        ("> /dev/full", 1, "", "weft: The output cannot be written (No space left on device).\n"),
        (">&-", 0, "", ""),
        ("<&-", 0, "x\n", ""),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_streams_that_take_nothing_or_are_closed(redirect: str, code: int, written: str, said: str) -> None:
    found = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {redirect}', sys.executable, _READS_AND_WRITES],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (code, written, said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_help_that_cannot_be_written_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "weft", "--help"]
        found = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1) and "cannot be written" in found.stderr

"""Run files: strict both ways, and each error names the key and what to write."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core import config
from weft.core.errors import ConfigError


@dataclass(frozen=True)
class Optimizer:
    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.95)


@dataclass(frozen=True)
class Run:
    title: str = ""
    steps: int = 10
    limit: int | None = None
    fast: bool = False
    sources: tuple[str, ...] = ()
    optimizer: Optimizer = field(default_factory=Optimizer)


@dataclass(frozen=True)
class Required:
    path: str
    size: int = 1


def write(folder: Path, text: str) -> Path:
    file = folder / "run.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_file_then_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, 'title = "今天"\nsteps = 5\n[optimizer]\nlearning_rate = 1\n')
    run = config.load(Run, file, ["steps=7", "optimizer.name=muon", "limit=3", "sources=['a', 'b']"])
    assert run == Run("今天", 7, 3, sources=("a", "b"), optimizer=Optimizer("muon", 1.0))
    assert config.load(Run, None) == Run()


def test_override_text_needs_no_quotes_and_keeps_equal_signs() -> None:
    assert config.load(Run, None, ["title=a=b c"]).title == "a=b c"
    assert config.load(Run, None, ["title=5"]).title == "5"


@given(
    st.builds(
        Run,
        title=st.text(),
        steps=st.integers(-(2**63), 2**63 - 1),
        limit=st.none() | st.integers(0, 9),
        fast=st.booleans(),
        sources=st.lists(st.text(), max_size=3).map(tuple),
        optimizer=st.builds(Optimizer, learning_rate=st.floats(allow_nan=False)),
    )
)
def test_dump_and_build_are_inverse(run: Run) -> None:
    import tomllib

    assert config.build(Run, tomllib.loads(config.dump(run)), "dump") == run


def test_saved_file_opens_again(tmp_path: Path) -> None:
    run = Run(title='"quoted" \\ 引号\n', sources=("a",))
    config.save(run, tmp_path / "deep" / "resolved.toml")
    assert config.load(Run, tmp_path / "deep" / "resolved.toml") == run


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stepz=1"], "did you mean steps?"),
        (["optimizer.learning_rat=1"], "did you mean optimizer.learning_rate?"),
        (["qqqq=1"], "known keys are title"),
        (["steps"], "section.key=value"),
        (["=3"], "section.key=value"),
        (["steps=many"], "steps = 'many' in the command line must be a whole number"),
        (["steps=true"], "must be a whole number"),
        (["steps=1.5"], "must be a whole number"),
        (["fast=1"], "true or false"),
        (["optimizer.name=adam"], "did you mean 'adamw'?"),
        (["optimizer=3"], "a table"),
        (["steps.deep=1"], "not a known key"),
        (["optimizer=3", "optimizer.name=muon"], "a table"),
        (["sources=[1, {a=1}]"], "sources"),
        (["title=[1]"], "title"),
        (["optimizer.betas=[0.9, 'x']"], "must be a number"),
    ],
)
def test_wrong_overrides_are_one_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(Run, None, overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_files(tmp_path: Path) -> None:
    for content, words in ((b"a = ", "not valid TOML"), (b"\xff\xfe", "not UTF-8"), (b"stepp = 1", "steps")):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            config.load(Run, tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match="no run file"):
        config.load(Run, tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        config.load(Run, tmp_path)
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.load(Run, write(tmp_path, "a = " + "[" * 100_000))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="lacks path"):
        config.load(Required, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5H", 5400), ("2d", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert config.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "-3m", "0", "nan", "inf", "1e999h", "五分"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ConfigError, match="write for instance 90s"):
        config.duration(text)

"""Native libraries are built once, whole, whoever comes first."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from weft.core import native

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "answer.cpp"
    file.write_text('extern "C" int answer() { return 42; }')
    return file


def test_threads_that_meet_an_empty_cache_all_get_the_library(source: Path) -> None:
    answers: list[int] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        answers.append(native.load([source]).answer())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [42] * 8


def test_a_library_that_was_cut_short_is_built_again(source: Path) -> None:
    cut = native._library(shutil.which("g++") or "", [source], native.BASE_FLAGS)
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"")
    assert native.load([source]).answer() == 42
    assert list(cut.parent.iterdir()) == [cut]


def test_a_source_that_does_not_build_says_why(source: Path) -> None:
    source.write_text("not C++")
    with pytest.raises(native.BuildError, match="error"):
        native.load([source])

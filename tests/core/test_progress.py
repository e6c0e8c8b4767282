"""The line: counts, rate and time left; live on a terminal, plain elsewhere."""

from __future__ import annotations

import io

import pytest

from weft.core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_tells_rate_and_time_left() -> None:
    progress = Progress("train", total=2000, unit="tokens", stream=io.StringIO())
    progress.done = 500
    line = progress.line(progress._started + 10, "loss 2.5")
    assert line == "train: 500/2000 (25 %), 30 s left, 50 tokens/s, loss 2.5"
    assert Progress("x", stream=io.StringIO()).line(0).startswith("x: 0, 0 items/s")


@pytest.mark.parametrize(
    ("done", "seconds", "words"), [(1, 100, "2:45 h"), (50, 60, "1:00 min"), (0, 5, "? left")]
)
def test_clock(done: float, seconds: float, words: str) -> None:
    progress = Progress("x", total=100, stream=io.StringIO())
    progress.done = done
    assert words in progress.line(progress._started + seconds)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0.04, "0"),
        (2.5, "2.5"),
        (49.9999999, "50"),
        (99.96, "100"),
        (999, "999"),
        (12_345, "12.3k"),
        (3_200_000, "3.2M"),
        (4e9, "4.0G"),
    ],
)
def test_counts_are_short(count: float, words: str) -> None:
    progress = Progress("x", stream=io.StringIO())
    progress.done = count
    assert f"x: {words}," in progress.line(progress._started + 1)


def test_plain_stream_gets_plain_lines() -> None:
    stream = io.StringIO()
    with Progress("数据", unit="files", stream=stream) as progress:
        progress.advance(3)
        progress.say("note")
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.splitlines()[0] == "note"
    assert text.splitlines()[-1].startswith("数据: 3 files in")


def test_terminal_line_is_rewritten_and_cleared() -> None:
    stream = Terminal()
    with Progress("x", total=2, stream=stream) as progress:
        progress.advance()
        progress.say("note")
    assert "\r\x1b[2Kx: 1/2" in stream.getvalue()
    assert "\r\x1b[2Knote\n" in stream.getvalue()
    with pytest.raises(ValueError, match="boom"), Progress("y", stream=stream):
        raise ValueError("boom")
    assert stream.getvalue().endswith("\r\x1b[2K")

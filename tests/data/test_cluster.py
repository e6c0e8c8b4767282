"""A Ray cluster of two nodes on this machine: the same documents, also when a node is lost in the middle."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data.test_pipeline_steps import files, make_corpus
from tests.ray_cluster import kill, two_nodes

pytest.importorskip("ray")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The head of two nodes also answers clients."""
    with two_nodes(tmp_path) as address:
        yield address


def command(corpus: Path, out: Path, on: str) -> list[str]:
    settings = ["tokenizer.vocab_size=512", "part_bytes=300000"]
    return [sys.executable, "-m", "weft", "data", str(corpus), "--out", str(out), "--on", on, *settings]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_and_a_node_lost_in_the_middle(tmp_path: Path, cluster: str) -> None:
    corpus = make_corpus(tmp_path / "corpus", 600)
    subprocess.run(command(corpus, tmp_path / "alone", "local"), check=True, capture_output=True)
    done = subprocess.run(command(corpus, tmp_path / "both", cluster), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "both") == files(tmp_path / "alone")

    process = subprocess.Popen(
        command(corpus, tmp_path / "lost", cluster), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    clean = tmp_path / "lost" / ".work" / "clean"
    while process.poll() is None and not list(clean.glob("part-*")):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    kill(int((tmp_path / "second").read_text()))
    _, said = process.communicate(timeout=300)
    if process.returncode:
        # The engine gave up a query: one sentence, and the same command goes on with the node that is left.
        assert "Traceback" not in said, said
        again = subprocess.run(command(corpus, tmp_path / "lost", cluster), capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
    assert files(tmp_path / "lost") == files(tmp_path / "alone")

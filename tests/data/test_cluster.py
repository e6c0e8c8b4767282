"""A Ray cluster of two nodes on this machine: the same documents, also when a node is lost in the middle."""

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data.test_pipeline_steps import files, make_corpus
from tests.ray_cluster import kill

pytest.importorskip("ray")

_PORT, _CLIENT = 26399, 26301


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two ``ray start`` processes with one processor each; the head also answers clients."""
    # Nodes and clients must know one token, which newer versions of Ray ask for.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ray's sockets lie there, whose paths have 107 characters at most.
    folder = tempfile.mkdtemp(prefix="ray-")
    common = ["--num-cpus", "1", "--object-store-memory", "200000000", "--disable-usage-stats", "--block"]
    head = ["--head", "--port", str(_PORT), "--ray-client-server-port", str(_CLIENT)]
    starts = [
        [*head, "--include-dashboard=false", "--temp-dir", folder],
        ["--address", f"127.0.0.1:{_PORT}"],
    ]
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for start in starts:
            log = tmp_path / f"node{len(nodes)}.log"
            with log.open("wb") as stream:
                command = [sys.executable, "-m", "ray.scripts.scripts", "start", *start, *common]
                nodes.append(subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True))
            wait_until_started(nodes[-1], log)
        (tmp_path / "second").write_text(str(nodes[1].pid))
        yield f"ray://127.0.0.1:{_CLIENT}"
    finally:
        for node in reversed(nodes):
            kill(node.pid)
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_started(node: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while "Ray runtime started" not in log.read_text():
        assert node.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def command(corpus: Path, out: Path, on: str) -> list[str]:
    settings = ["tokenizer.vocab_size=512", "part_bytes=300000"]
    return [sys.executable, "-m", "weft", "data", str(corpus), "--out", str(out), "--on", on, *settings]


@pytest.mark.slow
@pytest.mark.timeout(2400)
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
    _, said = process.communicate(timeout=900)
    if process.returncode:
        # The engine gave up a query: one sentence, and the same command goes on with the node that is left.
        assert "Traceback" not in said, said
        again = subprocess.run(command(corpus, tmp_path / "lost", cluster), capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
    assert files(tmp_path / "lost") == files(tmp_path / "alone")

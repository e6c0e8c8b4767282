"""The agents that `weft launch` starts and watches, with torchrun played by a small script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from weft.core.errors import Interrupted, ResourceError, TrainingError
from weft.recipes.launch.agents import Agents
from weft.recipes.launch.hosts import Host
from weft.recipes.launch.job import Job

HERE = (Host("localhost"), Host("127.0.0.1"))


def job(folder: Path, script: str, **changes: object) -> Job:
    """One whose Python is a shell script: ``$host`` says 1 on the first host and 0 elsewhere."""
    program = folder / "torchrun"
    head = 'case "$*" in *is_host=1*) host=1;; *) host=0;; esac'
    program.write_text(f"#!/bin/bash\n{head}\n{script}\n")
    program.chmod(0o755)
    values = {
        "training": ("train",),
        "out": folder / "out",
        "python": str(program),
        "directory": folder,
        "name": "n",
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def report(folder: Path, **record: object) -> str:
    """Shell text that leaves a fault report of the job."""
    text = json.dumps({"run": "n", "attempt": 0, "final": False, **record})
    return f"mkdir -p out && echo '{text}' > out/report-fault.json"


def test_rank_zero_is_heard_and_the_rest_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script = """
    echo "[rank 0] trained"; echo "[rank 0] loss 3" >&2; echo "[rank 1] mine" >&2; echo "W agent words" >&2
    echo "threads $OMP_NUM_THREADS, $TORCH_DISABLE_SHARE_RDZV_TCP_STORE, $EXTRA" """
    Agents(job(tmp_path, script, variables={"EXTRA": "a b"}), HERE[:1], 1).run()
    out, errors = capfd.readouterr()
    assert out == "trained\n" and errors == "loss 3\n"
    kept = (tmp_path / "out" / "logs" / "agent-localhost.log").read_text()
    assert "W agent words" in kept and "[rank" not in kept
    assert f"threads {len(os.sched_getaffinity(0))}, 1, a b" in kept


def test_the_first_fault_is_the_error(tmp_path: Path) -> None:
    script = report(tmp_path, sentence="Step 3: rank 1 was lost.", attempt=3) + "; exit 1"
    with pytest.raises(TrainingError, match=r"^Step 3: rank 1 was lost\.$"):
        Agents(job(tmp_path, script), HERE[:1], 1).run()


def test_the_error_file_of_the_first_rank_speaks(tmp_path: Path) -> None:
    for attempt, rank, moment, text in ((0, 0, 5, "old"), (1, 0, 9, "second"), (1, 1, 8, "first")):
        folder = tmp_path / "out" / "logs" / "n_x" / f"attempt_{attempt}" / str(rank)
        folder.mkdir(parents=True)
        record = {"message": {"message": text, "extraInfo": {"timestamp": str(moment)}}}
        (folder / "error.json").write_text(json.dumps(record))
    with pytest.raises(TrainingError, match=r"^first$"):
        Agents(job(tmp_path, "exit 1"), HERE[:1], 1).run()


def test_a_killed_rank_is_named_from_the_summary_of_the_agent(tmp_path: Path) -> None:
    script = "printf '  rank      : 1 (local_rank: 1)\\n  exitcode  : -9 (pid: 7)\\n' >&2; exit 1"
    with pytest.raises(TrainingError, match=r"Rank 1 on localhost was killed by signal 9"):
        Agents(job(tmp_path, script), HERE[:1], 1).run()


def test_an_agent_that_cannot_work_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"agent on localhost ended with code 3 \(no module torch\)"):
        Agents(job(tmp_path, "echo no module torch >&2; exit 3"), HERE[:1], 1).run()


def test_ssh_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="check --ssh"):
        Agents(job(tmp_path, ""), [Host("far")], 1, ssh=(str(tmp_path / "none"),)).run()


def test_hosts_are_reached_through_the_given_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reach = tmp_path / "reach"
    # As ssh does: the words after the host are joined and given to a shell.
    reach.write_text('#!/bin/sh\nhost=$1; shift; export REACHED=$host; exec sh -c "$*"\n')
    reach.chmod(0o755)
    wanted = job(tmp_path, 'echo "[rank 0] $REACHED $host"', nodes=2, least=2)
    Agents(wanted, [Host("me@far"), Host("near")], 1, ssh=(str(reach),)).run()
    assert sorted(capfd.readouterr().out.split("\n")) == ["", "me@far 1", "near 0"]


def test_a_lost_host_comes_back(tmp_path: Path) -> None:
    script = """
    echo started >> starts-$host
    if [ $host = 0 ] && [ ! -e died ]; then touch died; kill -9 $$; fi
    while [ $(cat starts-0 | wc -l) -lt 2 ]; do sleep 0.05; done"""
    Agents(job(tmp_path, script, nodes=2, least=1), HERE, 1, rejoin=0.2).run()
    assert (tmp_path / "starts-0").read_text() == "started\n" * 2
    assert (tmp_path / "starts-1").read_text() == "started\n"


def test_without_the_first_host_the_others_begin_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
    echo "$*" | grep -o "local-addr [^ ]*" >> starts
    if [ $host = 1 ] && [ ! -e died ]; then touch died; kill -9 $$; fi
    if [ $host = 0 ]; then exit 1; fi"""
    reach = tmp_path / "reach"
    reach.write_text('#!/bin/sh\nshift; exec sh -c "$*"\n')
    reach.chmod(0o755)
    wanted = job(tmp_path, script, nodes=2, least=1)
    Agents(wanted, [Host("a"), Host("b")], 1, ssh=(str(reach),)).run()
    assert sorted((tmp_path / "starts").read_text().split("\n")[:2]) == ["local-addr a", "local-addr b"]
    assert (tmp_path / "starts").read_text().split("\n")[2] == "local-addr b"
    assert "continuing without a" in capfd.readouterr().err


def test_too_few_hosts_end_the_run(tmp_path: Path) -> None:
    script = "if [ $host = 1 ]; then kill -9 $$; fi; exit 1"
    with pytest.raises(ResourceError, match="ended with code"):
        Agents(job(tmp_path, script, nodes=2, least=2, restarts=0), HERE, 1).run()


def test_too_few_hosts_are_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "if [ $host = 1 ] && [ ! -e died ]; then touch died; kill -9 $$; fi; [ $host = 1 ] || [ -e died ]"
    )
    Agents(job(tmp_path, script, nodes=2, least=2), HERE, 1, rejoin=0.3).run()
    assert "localhost went away; trying all hosts again" in capfd.readouterr().err


def test_a_fault_on_the_way_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = report(tmp_path, sentence="Step 3: rank 1 was lost.") + "; sleep 1"
    Agents(job(tmp_path, script), HERE[:1], 1).run()
    assert capfd.readouterr().err == (
        "weft launch: Step 3: rank 1 was lost. The processes are started again.\n"
    )


def test_a_final_fault_ends_at_once(tmp_path: Path) -> None:
    script = report(tmp_path, sentence="Step 3: NaN.", final=True) + "; while true; do sleep 0.1; done"
    with pytest.raises(TrainingError, match="NaN"):
        Agents(job(tmp_path, script), HERE[:1], 1).run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_ranks_save(tmp_path: Path, number: signal.Signals) -> None:
    script = """
    trap 'echo "[rank 0] weft: Interrupted after step 5 of 9."; exit 1' TERM
    touch begun; while true; do sleep 0.05; done"""
    agents = Agents(job(tmp_path, script), HERE[:1], 1)

    def interrupt() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted, match=r"^Interrupted after step 5 of 9\.$"):
        agents.run()


def test_nothing_is_left_when_the_launcher_is_killed(tmp_path: Path) -> None:
    wanted = job(tmp_path, "trap 'touch stopped; exit 1' TERM; touch begun; while true; do sleep 0.05; done")
    code = (
        "from pathlib import Path\nfrom weft.recipes.launch.agents import Agents\n"
        "from weft.recipes.launch.hosts import Host\nfrom weft.recipes.launch.job import Job\n"
        f"Agents(Job(('train',), Path({str(tmp_path / 'out')!r}), python={wanted.python!r}, "
        f"directory=Path({str(tmp_path)!r})), [Host('localhost')], 1).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(tmp_path / "begun")
    process.kill()
    process.wait()
    wait_for(tmp_path / "stopped")


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} did not appear"
        time.sleep(0.02)

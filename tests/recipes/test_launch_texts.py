"""What `weft launch` writes for others to run, and what it refuses to write."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from weft.cli.main import main
from weft.core.errors import UsageError
from weft.parallel.plan import Plan
from weft.recipes.launch import hosts, kubernetes, slurm
from weft.recipes.launch.agents import Agents
from weft.recipes.launch.hosts import Host
from weft.recipes.launch.job import Job, spread


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine would forward must not show in the golden texts."""
    for name in list(os.environ):
        if name.startswith(("WEFT_", "NCCL_", "GLOO_", "TORCH_", "OMP_", "PYTHONPATH")):
            monkeypatch.delenv(name)


def job(**changes: object) -> Job:
    values = {
        "training": ("train", "run.toml", "--parallel", "dp=4,tp=2"),
        "out": Path("runs/big"),
        "nodes": 2,
        "least": 2,
        "per_node": 4,
        "directory": Path("/shared/work"),
        "name": "weft-1",
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


SAME = "--nproc-per-node 4 --max-restarts 3 --rdzv-backend c10d"
LAST = "--log-dir runs/big/logs --redirects 3 --tee 0:3 --module weft train run.toml --parallel dp=4,tp=2"
THREADS = "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( $(nproc) > 4 ? $(nproc) / 4 : 1 ))}"


def test_the_line_of_torchrun() -> None:
    line = job(least=1).torchrun("node1:29400", host="node1", settings={"is_host": 1})
    assert " ".join(line) == (
        f"python -m torch.distributed.run --nnodes 1:2 {SAME} --rdzv-endpoint node1:29400 --rdzv-id weft-1 "
        f"--rdzv-conf is_host=1 --local-addr node1 {LAST}"
    )
    assert "--nnodes 2 " in " ".join(job().torchrun("node1:29400"))


def test_printed_lines_can_be_pasted() -> None:
    first, second = Agents(job(), [Host("node1"), Host("me@node2")], 29400).lines()
    assert first == (
        "# node1\n(cd /shared/work"
        " && export TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE='[rank ${rank}] '"
        " && export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
        f" && {THREADS}"
        f" && python -m torch.distributed.run --nnodes 2 {SAME} --rdzv-endpoint node1:29400 --rdzv-id weft-1"
        f" --rdzv-conf is_host=1 --local-addr node1 {LAST})"
    )
    assert "--rdzv-endpoint node1:29400" in second and "--local-addr node2" in second
    assert "is_host=0" in second and second.startswith("# node2\n")


def test_the_slurm_script() -> None:
    text = slurm.script(job(least=1), gpus=True, directives=["--partition=large"])
    body = (
        f"{THREADS}\nhost=$(( SLURM_NODEID == 0 ))\nexec python -m torch.distributed.run --nnodes 1:2 {SAME} "
        f'--rdzv-endpoint "$first:29400" --rdzv-id "$SLURM_JOB_ID" --rdzv-conf "is_host=$host" {LAST}'
    )
    assert text == (
        "#!/bin/bash\n"
        "# Written by weft launch. Submitted again, it continues the run from its newest checkpoint.\n"
        "#SBATCH --job-name=weft\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n#SBATCH --exclusive\n"
        "#SBATCH --output=runs/big/logs/slurm-%j.log\n#SBATCH --signal=TERM@120\n#SBATCH --requeue\n"
        "#SBATCH --gpus-per-node=4\n#SBATCH --no-kill\n#SBATCH --partition=large\n"
        "cd /shared/work || exit 1\n"
        "export TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE='[rank ${rank}] '\n"
        "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1\n"
        'export first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)\n'
        f"srun --kill-on-bad-exit=0 bash -c '{body}'\n"
    )
    fixed = slurm.script(job(), gpus=False)
    assert "--kill-on-bad-exit=1" in fixed and "--no-kill" not in fixed and "--gpus" not in fixed


def test_the_slurm_script_runs_on_a_node_that_is_played(tmp_path: Path) -> None:
    """With scontrol, srun and python played by small scripts: what torchrun would get on the second node."""
    played = {
        "scontrol": "echo node1; echo node2",
        "srun": 'shift; SLURM_NODEID=1 exec "$@"',
        "python": 'printf "%s\\n" "$@"; echo "threads $OMP_NUM_THREADS"',
        "nproc": "echo 10",
    }
    for name, text in played.items():
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    training = ("train", "a 'b' $HOME \"c\".toml")
    text = slurm.script(job(directory=tmp_path, training=training), gpus=False)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "7",
    }
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[words.index("--rdzv-endpoint") + 1] == "node1:29400"
    assert words[words.index("--rdzv-id") + 1] == "7"
    assert words[words.index("--rdzv-conf") + 1] == "is_host=0"
    assert words[-4:] == ["weft", *training, "threads 2"]


def test_the_kubernetes_manifest() -> None:
    text = kubernetes.manifest(job(), image="registry/weft:1", claim="runs", gpus=True, name="big")
    service, batch = yaml.safe_load_all(text)
    assert service["spec"] == {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"job-name": "big"},
        "ports": [{"port": 29400}],
    }
    assert batch["spec"]["completionMode"] == "Indexed"
    assert batch["spec"]["completions"] == batch["spec"]["parallelism"] == 2
    pod = batch["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["subdomain"] == "big" and pod["restartPolicy"] == "Never"
    assert container["image"] == "registry/weft:1" and container["workingDir"] == "/shared/work"
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 4}}
    assert {"name": "runs", "mountPath": "/shared/work"} in container["volumeMounts"]
    assert pod["volumes"][1] == {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}
    assert container["args"] == [
        f'{THREADS}\nhost="$(hostname).big"\nfirst="$(( JOB_COMPLETION_INDEX == 0 ))"\n'
        f"exec python -m torch.distributed.run --nnodes 2 {SAME} --rdzv-endpoint big-0.big:29400 "
        f'--rdzv-id big --rdzv-conf "is_host=$first" --local-addr "$host" {LAST}\n'
    ]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    # Kubernetes reads a doubled dollar as one.
    assert variables["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] == "[rank $${rank}] "


def test_what_kubernetes_would_refuse_is_refused() -> None:
    with pytest.raises(UsageError, match="needs --image"):
        kubernetes.manifest(job(), image="")
    with pytest.raises(UsageError, match="lower-case letters"):
        kubernetes.manifest(job(), image="a", name="Über")


def test_hosts_are_read(tmp_path: Path) -> None:
    assert [h.name for h in hosts.listed("a, me@b ,10.0.0.3")] == ["a", "b", "10.0.0.3"]
    file = tmp_path / "hosts"
    file.write_text("# ours\nnode1 slots=4\n\nme@node2  # fast\n")
    assert [h.login for h in hosts.from_file(file)] == ["node1", "me@node2"]


@pytest.mark.parametrize("text", ["-oProxyCommand=x", "a b", "", "a;b", "$(x)", ","])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"no host"):
        hosts.listed(text)


def test_a_missing_host_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        hosts.from_file(tmp_path / "none")


def test_processes_follow_from_the_plan() -> None:
    assert spread(None, Plan(dp=2, tp=2), 1) == 4
    assert spread(None, Plan(dp=2, tp=2), 2) == 2
    assert spread(8, Plan(), 2) == 4
    with pytest.raises(UsageError, match="2 processes, which 4 hosts cannot share evenly"):
        spread(None, Plan(dp=2), 4)
    with pytest.raises(UsageError, match="must be at least 1"):
        spread(0, Plan(), 1)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["launch", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "eval", "run"], "weft launch starts weft train"),
        ([], "weft launch starts weft train"),
        (["--hosts", "a", "--slurm", "x", "--", "train"], "give one of them"),
        (["--submit", "--", "train"], "--submit means nothing for processes on this machine"),
        (["--nodes", "2", "--", "train"], "--nodes means nothing"),
        (["--ray", "auto", "--image", "x", "--", "train"], "it goes with --kubernetes"),
        (["--slurm", "x", "--sbatch", "partition", "--", "train"], "must be one option of sbatch"),
        (["--slurm", "x", "--nodes", "0", "--", "train"], "must be at least 1"),
        (["--hosts", "a,b", "--min-nodes", "3", "--", "train", "--parallel", "dp=2"], "between 1 and the 2"),
        (["--hosts", "a,b", "--min-nodes", "1", "--", "train", "--parallel", "dp=2"], "set train.elastic=dp"),
        (["--restarts", "-1", "--", "train"], "0 or more"),
        (["--port", "99999", "--", "train"], "between 1 and 65535"),
        (["--env", "A", "--", "train"], "is not NAME=VALUE"),
        (["--", "train", "train.stps=3"], "did you mean train.steps?"),
        (["--", "train", "--parallel", "dq=2"], "did you mean 'dp'?"),
        (["--", "train", "--bugdet", "3m"], "--budget"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(arguments: list[str], words: str) -> None:
    code, output = invoke(*arguments)
    assert code == 2 and words in output and "Traceback" not in output


def test_a_script_is_written_and_recorded(tmp_path: Path) -> None:
    script, record, out = tmp_path / "run.sh", tmp_path / "record.json", tmp_path / "out"
    code, output = invoke(
        "--slurm", str(script), "--nodes", "2", "--json", str(record),
        "--", "train", "--parallel", "dp=2,tp=2", "--out", str(out),
    )  # fmt: skip
    assert code == 0, output
    assert f"sbatch {script}" in output and "--nproc-per-node 2" in script.read_text()
    found = json.loads(record.read_text())
    assert found["processes"] == 4 and found["nodes"] == 2 and found["file"] == str(script)
    # Slurm opens its log before the script runs.
    assert (out / "logs").is_dir()


def test_submitting_without_slurm_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, output = invoke(
        "--slurm", str(tmp_path / "a"), "--submit", "--", "train", "--out", str(tmp_path / "out")
    )
    assert code == 1 and "there is no sbatch here" in output


def test_a_hostfile_is_printed_without_starting(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("node1\nnode2\n")
    code, output = invoke("--hostfile", str(file), "--print", "--", "train", "--parallel", "dp=4")
    assert code == 0, output
    assert output.count("torch.distributed.run") == 2 and "--nproc-per-node 2" in output

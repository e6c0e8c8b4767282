"""Training on a Ray cluster of two nodes: one agent a node, the same weights as anywhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.ray_cluster import two_nodes

from weft.core.errors import ResourceError
from weft.core.files import hash_file
from weft.recipes.launch import on_ray
from weft.recipes.launch.job import Job

SETTINGS = (
    "data.sequence_length=64", "model.hidden_size=32", "model.head_dim=16", "model.num_hidden_layers=2",
    "train.batch_tokens=512", "train.steps=6", "train.save_steps=3", "train.arithmetic=fp32",
)  # fmt: skip


def launch(data: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "weft", "launch", *options, "--", "train", *SETTINGS, "--data", str(data),
            "--parallel", "dp=2", "--out", str(out),
        ],
        capture_output=True, text=True, check=False, timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
    )  # fmt: skip


def played(**answers: Any) -> SimpleNamespace:
    """A ray that answers what a test needs."""
    ray = SimpleNamespace(init=lambda **options: None, shutdown=lambda: None)
    return SimpleNamespace(**{**vars(ray), **answers})


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setitem(sys.modules, "ray", played(init=refuse))
    with pytest.raises(ResourceError, match=r"at head:1: nobody answers\. If .* RAY_AUTH_MODE"):
        on_ray.run(Job(("train",), tmp_path), "head:1", gpus=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ResourceError, match="needs the ray package"):
        on_ray.run(Job(("train",), tmp_path), "auto", gpus=False)


def test_a_cluster_without_room_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def group(bundles: list[dict[str, int]], strategy: str) -> SimpleNamespace:
        asked.append((bundles, strategy))
        return SimpleNamespace(wait=lambda seconds: False)

    util = SimpleNamespace(placement_group=group, remove_placement_group=asked.append)
    monkeypatch.setitem(sys.modules, "ray", played(util=util))
    with pytest.raises(ResourceError, match=r"no 2 nodes with 4 GPUs each free within 1 s; .* --nodes"):
        on_ray.run(Job(("train",), tmp_path, nodes=2, per_node=4), "auto", gpus=True, wait=1.0)
    assert asked[0] == ([{"CPU": 1, "GPU": 4}] * 2, "STRICT_SPREAD") and len(asked) == 2


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
def test_two_nodes_of_a_cluster_train_one_model(data_folder: Path, tmp_path: Path) -> None:
    with two_nodes(tmp_path) as address:
        done = launch(data_folder, tmp_path / "ray", "--ray", address, "--nodes", "2")
        assert done.returncode == 0, done.stderr
    assert launch(data_folder, tmp_path / "here").returncode == 0
    weights = [hash_file(tmp_path / name / "model" / "model.safetensors") for name in ("ray", "here")]
    assert weights[0] == weights[1]

"""Distillation: a small model learns from the distributions of a larger one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_session import StopAt, losses, make_run, train, weights

from weft.checkpoint.huggingface import load_model, save_model
from weft.core.errors import ConfigError, Interrupted
from weft.data.loader import Loader
from weft.models import Decoder
from weft.ops.distillation import Taught, distillation_plain, summed_distillation
from weft.ops.loss import IGNORED
from weft.parallel.model import ParallelModel
from weft.tokenizer import Tokenizer
from weft.train.objectives.distil import Distil
from weft.train.objectives.frozen import Frozen

FP32 = torch.float32


@pytest.fixture(scope="module")
def taught(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that has learnt for a while."""
    folder = tmp_path_factory.mktemp("teacher")
    train(make_run(data_folder, "model.hidden_size=64", "train.steps=40", "train.ema=0"), folder)
    return folder


@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize("dtype", [FP32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_chunks_equal_the_whole(chunk: int, dtype: torch.dtype, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 16, generator=generator).to(dtype)
    weight = torch.randn(100, 16, generator=generator)
    other = Taught(torch.randn(50, 24, generator=generator).to(dtype),
                   torch.randn(100, 24, generator=generator), alpha, 3.0)  # fmt: skip
    targets = torch.randint(0, 100, (50,), generator=generator)
    targets[[3, 20]] = IGNORED
    results = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss = summed_distillation(h, w, targets, other, 1 / 48, chunk)
        else:
            loss = distillation_plain(h, w, targets, other).sum() / 48
        loss.backward()
        results.append((loss, h.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).float().norm() <= (1e-5 if dtype == FP32 else 2e-2) * theirs.float().norm()
    with torch.no_grad():
        quiet = summed_distillation(hidden, weight, targets, other, 1 / 48, chunk)
    assert quiet.item() == results[0][0].item()


def test_the_loss_is_that_of_the_paper(
    data_folder: Path, taught: Path, tiny_decoder: Callable[..., Decoder]
) -> None:
    model, teacher = tiny_decoder().train(), load_model(taught, FP32)
    rows = ParallelModel.alone(model).rows(Loader(data_folder / "shards", "train", 64, 2).batch(0))
    ours, theirs = (m.logits(m(rows.tokens, rows.context, FP32)).detach() for m in (model, teacher))
    kept = rows.targets != IGNORED
    known = F.cross_entropy(ours[kept], rows.targets[kept], reduction="sum")
    p, q = (z[kept] / 3.0 for z in (theirs, ours))
    apart = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum()
    expected = (0.4 * 9.0 * apart + 0.6 * known).item()
    objective = Distil(Frozen(str(taught)), 0.4, 3.0)
    assert objective.loss(model, rows, 1.0, FP32).item() == pytest.approx(expected, rel=1e-5)
    # What validation prints is the cross entropy, to be compared with that of other runs.
    assert objective.loss(model.eval(), rows, 1.0, FP32).item() == pytest.approx(known.item(), rel=1e-5)
    one = (theirs[kept].softmax(-1) * (theirs[kept].log_softmax(-1) - ours[kept].log_softmax(-1))).sum()
    assert objective.figures()["divergence"] == pytest.approx(one.item(), rel=1e-5)
    assert objective.figures()["divergence"] == 0.0


def test_the_teacher_itself_has_nothing_to_learn(data_folder: Path, taught: Path) -> None:
    model = load_model(taught, FP32).train()
    rows = ParallelModel.alone(model).rows(Loader(data_folder / "shards", "train", 64, 2).batch(0))
    objective = Distil(Frozen(str(taught)), 1.0)
    loss = objective.loss(model, rows, 1.0, FP32)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad.abs().max() < 1e-3 for p in model.parameters() if p.grad is not None)


def test_the_divergence_falls_and_resume_is_exact(data_folder: Path, taught: Path, tmp_path: Path) -> None:
    run = make_run(data_folder, "objective.name=distil", f"objective.teacher={taught}", "train.steps=16")
    train(run, tmp_path / "whole")
    found = losses(tmp_path / "whole")
    assert found[-1] < found[0] - 0.3
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    seen: list[Any] = [json.loads(line) for line in lines if "divergence" in line]
    assert seen[-1]["divergence"] < seen[0]["divergence"]
    with pytest.raises(Interrupted):
        train(run, tmp_path / "parts", hooks=[StopAt(6)])
    train(run, tmp_path / "parts")
    assert losses(tmp_path / "parts") == found
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_other_tokenizers_and_vocabularies_are_refused(
    data_folder: Path, tiny_tokenizer: Tokenizer, tiny_decoder: Callable[..., Decoder], tmp_path: Path
) -> None:
    save_model(tmp_path / "other", tiny_decoder(), tiny_tokenizer)
    larger = tiny_decoder(vocab_size=520)
    save_model(tmp_path / "larger", larger, Tokenizer.load(data_folder / "tokenizer"))
    for name, message in (("other", "another tokenizer"), ("larger", "520 tokens and the model one of 512")):
        run = make_run(data_folder, "objective.name=distil", f"objective.teacher={tmp_path / name}")
        with pytest.raises(ConfigError, match=message):
            train(run, tmp_path / f"run-{name}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("objective.name=distil",), r"needs objective\.teacher"),
        (("objective.teacher=x",), r"needs objective\.teacher"),
        (("objective.name=distil", "objective.teacher=x", "parallel.tp=2"), "alone or with dp alone"),
        (("objective.name=distil", "objective.teacher=x", "objective.alpha=1.5"), "between 0 and 1"),
        (("objective.name=distil", "objective.teacher=x", "objective.temperature=0"), "must be positive"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_run(Path("x"), *changes)

"""Preferences: records of every form, pairs in one row, and losses that are those of the papers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_session import StopAt, losses, make_run, train, weights

from weft.checkpoint.huggingface import load_model, save_model
from weft.core.errors import ConfigError, DataError, Interrupted
from weft.data import supervised
from weft.data.batch import IGNORED, Batch
from weft.data.config import SplitConfig
from weft.data.forms import Preferences
from weft.data.preferences import PreferenceLoader
from weft.models import Decoder
from weft.ops.likelihood import log_probabilities, log_probabilities_plain
from weft.parallel.model import ParallelModel
from weft.tokenizer import Tokenizer
from weft.train import lora
from weft.train.config import TrainRun
from weft.train.objectives.dpo import DPO
from weft.train.objectives.frozen import Frozen
from weft.train.objectives.orpo import ORPO
from weft.train.objectives.preferences import likelihoods

FP32 = torch.float32
RECORDS = [
    {"prompt": f"{a} + {b}", "chosen": f"{a + b}。", "rejected": f"none{' or' * (a % 4)} {a * b}"}
    for a in range(12)
    for b in range(8)
]


@pytest.fixture(scope="module")
def start(data_folder: Path, tiny_decoder: Callable[..., Decoder], tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("start")
    save_model(folder, tiny_decoder(), Tokenizer.load(data_folder / "tokenizer"), dtype=FP32)
    return folder


@pytest.fixture(scope="module")
def preferences(data_folder: Path, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("preferences")
    file = folder / "given.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    settings = supervised.SupervisedConfig(form="preferences", split=SplitConfig(valid=0.2))
    supervised.prepare([file], Tokenizer.load(data_folder / "tokenizer"), folder / "made", settings)
    return folder / "made"


def loader(folder: Path, length: int = 256) -> PreferenceLoader:
    return PreferenceLoader(folder / "shards", "train", length, 2)


def documents(batch: Batch) -> list[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) of the documents with targets, in order."""
    found = []
    for tokens, targets, start in zip(batch.tokens, batch.targets, batch.document_start, strict=True):
        for first in np.unique(start):
            inside = start == first
            if (targets[inside] != IGNORED).any():
                found.append((tokens[inside], targets[inside]))
    return found


def unpacked(batch: Batch) -> list[Batch]:
    """Each pair in a row of its own, padded behind each document."""
    rows, width = documents(batch), 256
    made = []
    for chosen, rejected in zip(rows[0::2], rows[1::2], strict=True):
        tokens, targets = np.zeros((1, width), np.int64), np.full((1, width), IGNORED)
        begins = np.arange(width, dtype=np.int32)[None]
        for place, (inputs, wanted) in zip((3, 128), (chosen, rejected), strict=True):
            inside = slice(place, place + len(inputs))
            tokens[0, inside], targets[0, inside], begins[0, inside] = inputs, wanted, place
        made.append(Batch(tokens, targets, begins))
    return made


@pytest.mark.parametrize(
    ("record", "roles"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "ua"),
        ({"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}],
          "rejected": [{"role": "assistant", "content": "b"}]}, "ua"),
        ({"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
          "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}, "ua"),
        ({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
          "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}, "sua"),
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, "sua"),
        ({"instruction": "i", "input": "q", "chosen": "a", "rejected": "b"}, "ua"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: a",
          "rejected": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: b"}, "uaua"),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " a", "rejected": " b"}, "ua"),
    ],
)  # fmt: skip
def test_records_of_every_form(record: dict[str, Any], roles: str) -> None:
    example, reason, _ = Preferences().example(record)
    assert reason is None
    chosen, rejected = example
    assert "".join(message["role"][0] for message in chosen) == roles
    assert chosen[:-1] == rejected[:-1]
    assert (chosen[-1]["content"].strip(), rejected[-1]["content"].strip()) == ("a", "b")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("text", "no_pair"),
        ({"prompt": "q", "chosen": "a"}, "no_pair"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "no_preference"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "no_answer"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "no_conversation"),
        ({"prompt": "q", "chosen": 3, "rejected": "b"}, "no_conversation"),
        ({"prompt": "q", "chosen": {"from": "oracle", "value": "a"}, "rejected": "b"}, "unknown_role"),
        ({"chosen": "a", "rejected": "b"}, "no_prompt"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: b"},
         "prompts_differ"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r"},
         "prompts_differ"),
        ({"prompt": "q", "chosen": "a\ud800", "rejected": "b"}, "invalid_encoding"),
    ],
)  # fmt: skip
def test_bad_records_are_dropped_with_a_reason(record: Any, reason: str) -> None:
    example, found, value = Preferences().example(record)
    assert (example, found) == (None, reason) and value


def test_only_the_answers_behind_the_common_prompt_are_targets(data_folder: Path) -> None:
    tokenizer = Tokenizer.load(data_folder / "tokenizer")
    text = "\n\nHuman: q\n\nAssistant: before\n\nHuman: r\n\nAssistant: {}"
    example, _, _ = Preferences().example({"chosen": text.format("good"), "rejected": text.format("bad")})
    [made] = Preferences().encode(tokenizer, [example])
    assert not isinstance(made, DataError)
    said = [[tokenizer.decode(d.ids[slice(*d.answers[i : i + 2])]) for i in range(0, len(d.answers), 2)]
            for d in made]  # fmt: skip
    assert said == [["good<|im_end|>"], ["bad<|im_end|>"]]
    assert tokenizer.decode(made[0].ids).count("before") == 1


def test_both_answers_lie_in_one_row_in_order(preferences: Path, data_folder: Path) -> None:
    tokenizer = Tokenizer.load(data_folder / "tokenizer")
    rows, found = loader(preferences, 128), []
    for batch in rows.sequential():
        found += documents(batch)
        for start, targets in zip(batch.document_start, batch.targets, strict=True):
            assert len(np.unique(start[targets != IGNORED])) % 2 == 0
    assert len(found) == 2 * rows.counts["kept"] and rows.counts["too_long"] == 0
    texts = [tokenizer.decode([int(t) for t in targets if t != IGNORED]) for _, targets in found]
    pairs = {(record["chosen"], record["rejected"]) for record in RECORDS}
    ends = [text.removesuffix("<|im_end|>") for text in texts]
    assert set(zip(ends[0::2], ends[1::2], strict=True)) <= pairs
    assert max(len(documents(Batch(*(x[i : i + 1] for x in (b.tokens, b.targets, b.document_start)))))
               for b in rows.sequential() for i in range(len(b.tokens))) > 2  # fmt: skip


def test_long_pairs_are_dropped_and_other_folders_refused(preferences: Path, data_folder: Path) -> None:
    short = loader(preferences, 56)
    assert short.counts["too_long"] > 0 < short.counts["kept"]
    with pytest.raises(DataError, match="No pair"):
        loader(preferences, 8)
    with pytest.raises(DataError, match="plain text, not preferences"):
        loader(data_folder)


@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize("dtype", [FP32, torch.bfloat16])
def test_chunked_log_probabilities_equal_the_plain_ones(chunk: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 16, generator=generator).to(dtype)
    weight = torch.randn(100, 16, generator=generator)
    targets, above = torch.randint(0, 100, (50,), generator=generator), torch.randn(50, generator=generator)
    results = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        found = log_probabilities(h, w, targets, chunk) if chunked else log_probabilities_plain(h, w, targets)
        (found * above).sum().backward()
        results.append((found, h.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).float().norm() <= (1e-5 if dtype == FP32 else 2e-2) * theirs.float().norm()


def logs_of_transformers(folder: Path, batch: Batch) -> torch.Tensor:
    """fp32 [P, 2, 2]: summed log probability and tokens of each answer, every document for itself."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=FP32).eval()
    found = []
    with torch.no_grad():
        for inputs, targets in documents(batch):
            logs = model(torch.from_numpy(inputs)[None]).logits[0].log_softmax(-1)
            kept = torch.from_numpy(np.flatnonzero(targets != IGNORED))
            wanted = logs[kept, torch.from_numpy(targets)[kept]]
            found.append([wanted.sum().item(), float(len(kept))])
    return torch.tensor(found).view(-1, 2, 2)


def test_losses_are_those_of_the_papers_on_unpacked_sequences(
    preferences: Path, start: Path, tiny_decoder: Callable[..., Decoder], data_folder: Path, tmp_path: Path
) -> None:
    model, batch = tiny_decoder(seed=0), loader(preferences).batch(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    save_model(tmp_path, model, Tokenizer.load(data_folder / "tokenizer"), dtype=FP32)
    now, before = (logs_of_transformers(folder, batch) for folder in (tmp_path, start))
    margin = 0.3 * ((now - before)[:, 0, 0] - (now - before)[:, 1, 0])
    means = now[..., 0] / now[..., 1]
    odds = (means.exp() / (1.0 - means.exp())).log()
    nearer = F.logsigmoid(odds[:, 0] - odds[:, 1])
    expected = {
        "dpo": (-0.8 * F.logsigmoid(margin) - 0.2 * F.logsigmoid(-margin)).sum().item(),
        "orpo": -(means[:, 0] + 0.3 * nearer).sum().item(),
    }
    objectives = {"dpo": DPO(Frozen(str(start)), 0.3, 0.2), "orpo": ORPO(0.3)}
    rows = ParallelModel.alone(model).rows
    for name, objective in objectives.items():
        assert objective.count(batch) == len(now)
        packed = objective.loss(model.train(), rows(batch), 1.0, FP32).item()
        apart = sum(objective.loss(model, rows(one), 1.0, FP32).item() for one in unpacked(batch))
        assert packed == pytest.approx(expected[name], rel=1e-5), name
        assert apart == pytest.approx(packed, rel=1e-5), name


def test_gradients_are_those_of_the_plain_losses(
    preferences: Path, start: Path, tiny_decoder: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = loader(preferences).batch(0)
    for objective in (DPO(Frozen(str(start)), 0.3, 0.1), ORPO(0.3)):
        found = []
        for plain in (False, True):
            if plain:
                name = "weft.train.objectives.preferences.log_probabilities"
                monkeypatch.setattr(name, log_probabilities_plain)
            model = tiny_decoder(seed=3).requires_grad_(True).train()
            objective.loss(model, ParallelModel.alone(model).rows(batch), 0.25, FP32).backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
            monkeypatch.undo()
        assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm() > 0


def test_the_parts_of_data_ranks_add_up(
    preferences: Path, start: Path, tiny_decoder: Callable[..., Decoder]
) -> None:
    batch = PreferenceLoader(preferences / "shards", "train", 128, 3).batch(0)
    parts = [batch.part(rank, 2) for rank in range(2)]
    for objective in (DPO(Frozen(str(start)), 0.3), ORPO(0.3)):
        assert sum(objective.count(part) for part in parts) == objective.count(batch)
        found = []
        for whole in ([batch], parts):
            model = tiny_decoder(seed=3).requires_grad_(True).train()
            for part in whole:
                objective.loss(model, ParallelModel.alone(model).rows(part), 0.25, FP32).backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm() > 0


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("dtype", [FP32, torch.bfloat16])
def test_dpo_of_the_start_model_is_exactly_log_2(
    preferences: Path, start: Path, adapters: bool, dtype: torch.dtype
) -> None:
    model, batch = load_model(start, FP32), loader(preferences).batch(0)
    if adapters:
        given = (f"model.start={start}", "objective.name=dpo", "lora.rank=4", "lora.dropout=0.1")
        lora.apply(model, make_run(preferences, *given), dtype)
    objective = DPO(Frozen(str(start)))
    loss = objective.loss(model, ParallelModel.alone(model).rows(batch), 1.0, dtype)
    if not adapters:
        assert loss.item() == torch.tensor(math.log(2.0)).mul(objective.count(batch)).item()
    else:
        # In training adapters drop inputs of theirs, but what they add is still zero.
        assert loss.item() == pytest.approx(math.log(2.0) * objective.count(batch), rel=1e-7)
        assert not objective.reference._held


def dpo(folder: Path, start: Path, *changes: str) -> TrainRun:
    given = ("optimizer.name=adamw", "optimizer.learning_rate=0.003", "train.ema=0", "train.arithmetic=fp32")
    return make_run(folder, f"model.start={start}", "objective.name=dpo", *given, *changes)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("change", ["objective.name=dpo", "objective.name=orpo", "lora.rank=4"])
def test_a_few_steps_tell_the_answers_apart_and_resume_is_exact(
    preferences: Path, start: Path, tmp_path: Path, change: str
) -> None:
    run = dpo(preferences, start, "data.sequence_length=128", change)
    train(run, tmp_path / "whole")
    found = losses(tmp_path / "whole")
    assert found[-1] < found[0]
    if "orpo" not in change:
        assert found[0] == pytest.approx(math.log(2.0), rel=1e-6)
    last = records(tmp_path / "whole")[-1]
    assert last["reward_accuracy"] > 0.8 and last["reward_margin"] > 0
    assert last["reward_margin"] == pytest.approx(last["reward_chosen"] - last["reward_rejected"])
    with pytest.raises(Interrupted):
        train(run, tmp_path / "parts", hooks=[StopAt(6)])
    train(run, tmp_path / "parts")
    # The thin products of adapters are not the same to the last bit each time, resumed or not.
    assert losses(tmp_path / "parts") == (pytest.approx(found, rel=1e-4) if "lora" in change else found)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole") or "lora" in change
    batch, sums = loader(preferences).batch(0), []
    for folder in (start, tmp_path / "whole"):
        model = load_model(folder, FP32)
        with torch.no_grad():
            rows = ParallelModel.alone(model).rows(batch)
            sums.append(likelihoods(model, model(rows.tokens, rows.context, FP32), rows).sums)
    moved = sums[1] - sums[0]
    assert (moved[:, 0] - moved[:, 1]).mean() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("objective.name=dpo",), r"needs model\.start"),
        (("objective.name=dpo", "model.start=x", "parallel.fsdp=2"), "alone or with dp alone"),
        (("objective.name=orpo", "parallel.tp=2"), "alone or with dp alone"),
        (("objective.name=orpo", "objective.long=cut"), "would cut one of two"),
        (("objective.name=orpo", "objective.beta=0"), "must be positive"),
        (("objective.name=orpo", 'mixture.sources=["a"]'), r"data\.path alone"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_run(Path("x"), *changes)


def test_sft_never_learns_rejected_answers(preferences: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rejected answers"):
        train(make_run(preferences, "objective.name=sft"), tmp_path / "run")


def test_published_files(data_folder: Path, tmp_path: Path) -> None:
    folder = Path(os.environ.get("WEFT_DATA", "")) / "instruct"
    files = {
        "preferences/hh_harmless_test.jsonl.zst": 2300,
        "llamafactory_demos/dpo_en_demo.json.zst": 290,
        "llamafactory_demos/dpo_zh_demo.json.zst": 289,
    }
    if "WEFT_DATA" not in os.environ or not all((folder / name).exists() for name in files):
        pytest.skip("the environment variable WEFT_DATA names no folder with these sets")
    settings = supervised.SupervisedConfig(form="preferences")
    tokenizer = Tokenizer.load(data_folder / "tokenizer")
    for name, least in files.items():
        out = tmp_path / Path(name).name
        figures = supervised.prepare([folder / name], tokenizer, out, settings)["figures"]
        kept = sum(figures[split]["documents"] for split in ("train", "valid", "test")) // 2
        assert kept >= least, (name, figures["dropped"])
        assert figures["train"]["documents"] % 2 == 0
        assert loader(out, 8192).counts["kept"] > 0.5 * figures["train"]["documents"] / 2

"""Bidirectional LSTM and GRU over packed rows: each document as if it were alone, and their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.models.baselines import (
    check_gradients,
    check_order_does_not_matter,
    check_packed_is_alone,
    documents,
    drawn,
    named,
    packed,
    scores,
    shape,
)
from torch import nn

from weft.checkpoint.huggingface import load_any, load_model, save_model
from weft.checkpoint.kinds import KINDS
from weft.core.errors import CheckpointError, ConfigError
from weft.models.cells import in_step
from weft.models.recurrent import Recurrent
from weft.ops.both_ways import BothWays

RECURRENT = named("lstm", "gru")


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("pooling", ["max", "mean", "cls"])
def test_documents_of_a_row_do_not_see_each_other(name: str, pooling: str) -> None:
    check_packed_is_alone(drawn(shape(name, classifier_pooling=pooling)), None, 1e-5)


@pytest.mark.parametrize("name", RECURRENT)
def test_in_bf16_only_inputs_and_outputs_are_rounded(name: str) -> None:
    model = drawn(shape(name))
    check_packed_is_alone(model, torch.bfloat16, 2e-2)
    tokens, start = packed()
    exact, rounded = (model(tokens, BothWays(start), dtype) for dtype in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(rounded.float(), exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_states_are_those_of_pytorch(cell: str) -> None:
    model = drawn(shape(f"Weft{cell.title()}ForTokenClassification"))
    assert isinstance(model, Recurrent) and isinstance(model.rnn, {"lstm": nn.LSTM, "gru": nn.GRU}[cell])
    tokens, start = packed()
    hidden = model(tokens, BothWays(start))
    for row, first, stop in documents(start):
        plain, _ = model.rnn(model.embedding(tokens[row, first:stop]))
        torch.testing.assert_close(hidden[row, first:stop], plain, rtol=1e-5, atol=1e-6)


def test_documents_stand_side_by_side_and_the_longest_comes_first() -> None:
    start = torch.tensor([[0, 0, 2, 3], [0, 1, 1, 1]], dtype=torch.int32)
    order, together = in_step(BothWays(start))
    assert together.tolist() == [5, 2, 1]
    assert order.tolist() == [5, 0, 2, 3, 4, 6, 1, 7]


@pytest.mark.parametrize("name", RECURRENT)
def test_the_order_of_the_rows_does_not_matter(name: str) -> None:
    check_order_does_not_matter(drawn(shape(name)))


@pytest.mark.parametrize("name", RECURRENT)
def test_every_parameter_learns(name: str) -> None:
    check_gradients(drawn(shape(name)).train())
    if "Token" in name:
        check_gradients(drawn(shape(name, crf=True)).train())


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("layers", [1, 3])
def test_counts_of_parameters(name: str, layers: int) -> None:
    config = shape(name, num_hidden_layers=layers, crf="Token" in name)
    model = KINDS[name].build(config)
    assert config.parameters == sum(p.numel() for p in model.parameters()) == config.active_parameters
    matrices = sum(p.numel() for n, p in model.named_parameters() if n.startswith("rnn.weight"))
    assert config.flops_per_token(100) == 6 * matrices


def test_fresh_weights_follow_the_seed_and_an_lstm_remembers() -> None:
    models = [KINDS[RECURRENT[0]].build(shape(RECURRENT[0])) for _ in range(2)]
    for model in models:
        model.initialise(torch.Generator().manual_seed(3))
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
    assert models[0].get_parameter("rnn.bias_ih_l0").tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32


@pytest.mark.parametrize("name", RECURRENT)
def test_a_checkpoint_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model = drawn(shape(name, crf="Token" in name, dropout=0.1, classifier_pooling="mean"))
    save_model(tmp_path / "m", model, None)
    back = load_any(tmp_path / "m").eval()
    assert isinstance(back, Recurrent) and back.config == model.config
    for (one, parameter), (other, loaded) in zip(
        model.named_parameters(), back.named_parameters(), strict=True
    ):
        assert one == other and torch.equal(parameter, loaded)
    assert torch.equal(scores(back, *packed()), scores(model, *packed()))
    save_model(tmp_path / "again", back, None)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "m" / file).read_bytes()
    assert "rnn.weight_ih_l0" in load_file(tmp_path / "m" / "model.safetensors")


def test_the_cell_stays_in_fp32_when_the_rest_is_not(tmp_path: Path) -> None:
    model = drawn(shape(RECURRENT[0]))
    save_model(tmp_path / "m", model, None)
    small = load_any(tmp_path / "m", torch.bfloat16).eval()
    assert small.number_format == "bfloat16"
    torch.testing.assert_close(
        scores(small, *packed()).float(), scores(model, *packed()), rtol=5e-2, atol=5e-2
    )


DAMAGE: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "weft_cnn"}, "model_type = 'weft_cnn' is not that of a WeftLstmForTokenClassification"),
    ({"hidden_size": 34}, "do not belong together"),
    ({"hidden_size": 33}, "must be even"),
    ({"hidden_size": None}, "it lacks hidden_size"),
    ({"num_hidden_layers": 3}, "lack rnn.bias_hh_l2"),
    ({"num_hidden_layers": 1}, "hold rnn.bias_hh_l1"),
    ({"num_hidden_layers": 10**6}, "claims 1000000 layers"),
    ({"kernel_sizes": [3]}, "kernel_sizes is for a CNN"),
    ({"classifier_pooling": ["max"]}, "must be cls, mean or max"),
    ({"id2label": {"1": "a"}}, "id2label must name the classes from 0 on"),
    ({"dropout": 1.0}, "dropout = 1.0"),
    ({"architectures": ["WeftGruForTokenClassification"]}, "do not belong together"),
    ({"architectures": ["WeftRnnForTokenClassification"]}, "did you mean"),
]


@pytest.mark.parametrize(("changes", "said"), DAMAGE)
def test_damaged_and_foreign_folders_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_model(tmp_path / "m", drawn(shape("WeftLstmForTokenClassification")), None)
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_any(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_it_is_no_decoder(tmp_path: Path) -> None:
    save_model(tmp_path / "m", drawn(shape("WeftGruForSequenceClassification")), None)
    with pytest.raises(CheckpointError, match="does not continue text"):
        load_model(tmp_path / "m")


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": 31}, "hidden_size = 31 must be even"),
    ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    ({"vocab_size": 0}, "vocab_size = 0"),
    ({"labels": ()}, "labels is empty"),
    ({"labels": ("a", "a")}, "labels names a class twice"),
    ({"crf": True}, "crf = true stands on labels of tokens"),
    ({"dropout": -0.1}, "dropout = -0.1"),
    ({"kernel_sizes": (3,)}, "kernel_sizes is for a CNN"),
    ({"classifier_pooling": "last"}, "classifier_pooling = 'last'"),
    ({"initializer_range": 0.0}, "initializer_range = 0.0"),
]


@pytest.mark.parametrize(("changes", "said"), IMPOSSIBLE)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shape("WeftLstmForSequenceClassification", **changes)

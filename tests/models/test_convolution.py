"""The small CNN over packed rows: each document as if it were alone, and its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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

from weft.checkpoint.huggingface import load_any, save_model
from weft.checkpoint.kinds import KINDS
from weft.core.errors import CheckpointError, ConfigError
from weft.models.convolution import Convolutional
from weft.models.heads import pool
from weft.ops.both_ways import BothWays

CNN = named("cnn")


@pytest.mark.parametrize("name", CNN)
@pytest.mark.parametrize("pooling", ["max", "mean", "cls"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_documents_of_a_row_do_not_see_each_other(name: str, pooling: str, dtype: torch.dtype | None) -> None:
    model = drawn(shape(name, classifier_pooling=pooling))
    check_packed_is_alone(model, dtype, 1e-5 if dtype is None else 3e-2)


@pytest.mark.parametrize("sizes", [(3, 4, 5), (1,), (2, 7)])
def test_the_features_are_those_of_convolutions_over_padded_documents(sizes: tuple[int, ...]) -> None:
    model = drawn(shape(CNN[1], num_hidden_layers=1, kernel_sizes=sizes))
    assert isinstance(model, Convolutional)
    tokens, start = packed()
    hidden = model(tokens, BothWays(start))
    for row, first, stop in documents(start):
        x_ET = model.embedding(tokens[row, first:stop]).T
        found = []
        for name, matrix in model.layers[0].of_size.items():
            size = int(name)
            kernel = matrix.weight.view(-1, size, 32).transpose(1, 2)
            wide = F.pad(x_ET, ((size - 1) // 2, size // 2))
            found.append(F.conv1d(wide.unsqueeze(0), kernel, matrix.bias)[0].T)
        torch.testing.assert_close(hidden[row, first:stop], torch.cat(found, 1).relu(), rtol=1e-4, atol=1e-4)


def test_the_largest_of_each_dimension_is_that_of_the_document() -> None:
    _, start = packed()
    hidden = torch.randn(*start.shape, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    places = documents(start)[::-2]
    context = BothWays(start)
    first = torch.tensor([row * start.shape[1] + first for row, first, _ in places])
    found = pool(hidden, context.start, context.end, first, "max")
    expected = torch.stack([hidden[row, begin:stop].max(0).values for row, begin, stop in places])
    assert torch.equal(found, expected)
    weight = torch.randn(found.shape)
    (one,) = torch.autograd.grad((found * weight).sum(), hidden)
    (other,) = torch.autograd.grad((expected * weight).sum(), hidden)
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", CNN)
def test_the_order_of_the_rows_does_not_matter(name: str) -> None:
    check_order_does_not_matter(drawn(shape(name)))


@pytest.mark.parametrize(("name", "crf"), [(CNN[0], False), (CNN[1], False), (CNN[1], True)])
def test_every_parameter_learns(name: str, crf: bool) -> None:
    check_gradients(drawn(shape(name, crf=crf)).train())


@pytest.mark.parametrize("name", CNN)
@pytest.mark.parametrize("sizes", [(3, 4, 5), (1,), (2, 7)])
def test_counts_of_parameters(name: str, sizes: tuple[int, ...]) -> None:
    config = shape(name, kernel_sizes=sizes, crf="Token" in name)
    model = KINDS[name].build(config)
    assert config.parameters == sum(p.numel() for p in model.parameters()) == config.active_parameters
    matrices = sum(p.numel() for n, p in model.named_parameters() if n.startswith("layers") and p.ndim > 1)
    assert config.flops_per_token(100) == 6 * matrices
    assert sum(config.filters.values()) == 32


@pytest.mark.parametrize("name", CNN)
def test_a_checkpoint_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model = drawn(shape(name, crf="Token" in name, dropout=0.1, kernel_sizes=(2, 7)))
    save_model(tmp_path / "m", model, None)
    back = load_any(tmp_path / "m").eval()
    assert isinstance(back, Convolutional) and back.config == model.config
    assert torch.equal(scores(back, *packed()), scores(model, *packed()))
    save_model(tmp_path / "again", back, None)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "m" / file).read_bytes()
    assert "layers.0.of_size.7.weight" in load_file(tmp_path / "m" / "model.safetensors")


DAMAGE: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "weft_recurrent"}, "model_type = 'weft_recurrent'"),
    ({"kernel_sizes": [3, 4]}, "hold layers.0.of_size.5"),
    ({"kernel_sizes": [3, 4, 6]}, "lack layers.0.of_size.6"),
    ({"kernel_sizes": "345"}, "must be a list of whole numbers"),
    ({"kernel_sizes": [3, True]}, "must be a list of whole numbers"),
    ({"kernel_sizes": [3, 10**9]}, "different numbers from 1 to 64"),
    ({"kernel_sizes": None}, "must be a list of whole numbers"),
    ({"hidden_size": 2**31 - 1}, "claims sizes|do not belong together"),
    ({"architectures": None}, "model type that Weft reads"),
]


@pytest.mark.parametrize(("changes", "said"), DAMAGE)
def test_damaged_and_foreign_folders_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_model(tmp_path / "m", drawn(shape(CNN[0])), None)
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_any(tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernel_sizes": ()}, "kernel_sizes"),
        ({"kernel_sizes": (3, 3)}, "different numbers"),
        ({"kernel_sizes": (0,)}, "from 1 to 64"),
        ({"hidden_size": 2}, "at least the 3 kernel_sizes"),
        ({"max_position_embeddings": 0}, "max_position_embeddings = 0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shape(CNN[0], **changes)

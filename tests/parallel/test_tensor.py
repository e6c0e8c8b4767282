"""Tensor parallel: matrices, positions and the vocabulary cut over ranks train the model of one process."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tests.parallel.parity import LENGTH, ROWS, VOCABULARY, Case, batch, bf16, compare, decoder_config
from tests.parallel.ranks import Ranks, slow
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from weft.core.errors import ConfigError
from weft.data.batch import IGNORED
from weft.models import Decoder
from weft.models.layers import Linear
from weft.models.names import DECODER as NAMES
from weft.models.sharding import DECODER, cut
from weft.ops.attention import PackedRows
from weft.ops.loss import cross_entropy_plain, summed_cross_entropy
from weft.parallel import tensor
from weft.parallel.gradients import copies
from weft.parallel.mesh import Mesh
from weft.parallel.model import parallelise
from weft.parallel.plan import Plan
from weft.parallel.sequence import Line
from weft.parallel.vocabulary import (
    VocabularyEmbedding,
    vocabulary_cross_entropy,
    vocabulary_cross_entropy_plain,
)
from weft.parallel.world import joined
from weft.train.objectives.pretrain import Pretrain

LLAMA = {"architecture": "LlamaForCausalLM", "qk_norm": False, "tie_word_embeddings": False}
LLAMA_BIAS = {**LLAMA, "attention_bias": True}
QWEN2 = {"architecture": "Qwen2ForCausalLM", "qk_norm": False, "attention_bias": True}
MISTRAL = {**LLAMA, "architecture": "MistralForCausalLM", "sliding_window": 5}


@pytest.mark.parametrize("config", [{}, QWEN2, LLAMA_BIAS, MISTRAL], ids=["tied", "q2", "llama", "window"])
def test_two_ranks_are_one_process(two: Ranks, config: dict[str, Any]) -> None:
    compare(two, "tp=2", Case(config=config))


def test_four_ranks_are_one_process(four: Ranks) -> None:
    compare(four, "tp=4", Case(steps=3, config={"num_key_value_heads": 4}))


def test_replicas_of_two_ranks_are_one_process(four: Ranks) -> None:
    compare(four, "dp=2,tp=2", Case(steps=3, config=LLAMA))


@pytest.mark.parametrize("plan", ["fsdp=2,tp=2", *slow("fsdp=2,tp=2,recompute=full")])
def test_shards_of_two_ranks_are_one_process(four: Ranks, plan: str) -> None:
    compare(four, plan, Case(steps=3, micro_rows=2, config=QWEN2))


def test_bf16_stays_near(two: Ranks) -> None:
    compare(two, "tp=2", bf16(Case(steps=3)), gradient=6e-2, loss=1e-2)


def test_muon_is_the_same_on_cut_matrices(two: Ranks) -> None:
    compare(two, "tp=2", Case(optimizer="muon"), loss=2e-3)


def test_every_parameter_that_has_a_name_elsewhere_is_cut_somehow() -> None:
    assert DECODER.keys() == {name for name in NAMES if name in DECODER}
    assert set(dict(Decoder(decoder_config(Case())).named_parameters())) <= {
        name.replace("{}", str(layer)) for name in DECODER for layer in range(4)
    }
    assert cut("blocks.17.attention.o.weight") == "rows"
    assert cut("blocks.17.feed_forward.experts.gate") == "copied"


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({}, "num_key_value_heads = 2"),
        ({"num_key_value_heads": 4, "vocab_size": 66}, "vocab_size = 66"),
    ],
)
def test_what_cannot_be_cut_evenly_is_refused(config: dict[str, Any], what: str) -> None:
    shape = decoder_config(Case(config=config))
    with pytest.raises(
        ConfigError, match=f"parallel.tp = 4 cannot share .* evenly: {what} is not a multiple"
    ):
        Plan(tp=4).check(shape, rows=ROWS, micro_rows=2, length=LENGTH)


def _line() -> tuple[Mesh, Line]:
    with joined(torch.device("cpu")) as world:
        mesh = Mesh.build(Plan(tp=world.size), world)
    return mesh, Line.of(mesh.line("tp"))


def _loss(chunk: int, dtype: torch.dtype) -> None:
    _, line = _line()
    noise = torch.Generator().manual_seed(3)
    whole = torch.randn(3, 10, 16, generator=noise).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, 16, generator=noise).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (3, 10), generator=noise)
    targets[1, 2:9] = IGNORED
    expected = summed_cross_entropy(whole.flatten(0, 1), weight, targets.flatten(), 0.25)
    (expected * 3.0).backward()

    part = whole.detach().chunk(line.size, 1)[line.rank].clone().requires_grad_()
    own = weight.detach().chunk(line.size)[line.rank].clone().requires_grad_()
    found = vocabulary_cross_entropy(part, own, targets, 0.25, line, chunk)
    (found * 3.0).backward()
    near = 1e-5 if dtype == torch.float32 else 2e-2
    plain = vocabulary_cross_entropy_plain(part.detach(), own.detach(), targets, 0.25, line)
    reference = cross_entropy_plain(whole.detach().flatten(0, 1), weight.detach(), targets.flatten())
    for value in (found, plain, 0.25 * reference.sum()):
        torch.testing.assert_close(value, expected, rtol=near, atol=0)
    with torch.no_grad():
        assert torch.equal(vocabulary_cross_entropy(part, own, targets, 0.25, line, chunk), found)
    for gradient, master, dimension in ((part.grad, whole.grad, 1), (own.grad, weight.grad, 0)):
        assert gradient is not None and master is not None
        torch.testing.assert_close(
            gradient, master.chunk(line.size, dimension)[line.rank], rtol=near, atol=near
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 8, 1024])
def test_the_loss_over_a_cut_vocabulary_is_that_of_one_process(
    two: Ranks, chunk: int, dtype: torch.dtype
) -> None:
    two.run(_loss, chunk, dtype)


def _unknown(token: int) -> None:
    _, line = _line()
    own = torch.zeros(VOCABULARY, 16).chunk(line.size)[line.rank]
    tokens = torch.full((1, 4), 3)
    tokens[0, 1] = token
    with pytest.raises(IndexError):
        VocabularyEmbedding(nn.Parameter(own), line)(tokens)
    with pytest.raises(RuntimeError, match="out of bounds"):
        vocabulary_cross_entropy(torch.zeros(1, 4 // line.size, 16), own, tokens, 1.0, line)


@pytest.mark.parametrize("token", [VOCABULARY, VOCABULARY + 7, -1])
def test_a_token_outside_the_vocabulary_fails_on_each_rank_as_in_one_process(two: Ranks, token: int) -> None:
    """No rank has it, and none may take it for nothing: the loss would be finite and wrong."""
    two.run(_unknown, token)


class _Other(nn.Module):
    """A feed-forward that tensor parallel knows nothing of, and what it was given."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.inside, self.outside = Linear(32, inner, bias=False), Linear(inner, 32, bias=False)
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x.shape[1]
        out: torch.Tensor = self.outside(self.inside(x).relu())
        return out


def _model() -> Decoder:
    torch.manual_seed(5)
    model = Decoder(decoder_config(Case()))
    model.blocks.get_submodule("1").feed_forward = _Other(24)
    return model


def _other(tokens: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor, int]:
    """Gradients, scores and positions seen of a model with a foreign feed-forward, cut over the ranks."""
    mesh, _ = _line()
    model = _model()
    tensor.apply(model, mesh.plan, mesh)
    hidden = model(tokens, PackedRows(torch.zeros_like(tokens)))
    scores = model.logits(hidden)
    scores.square().mean().backward()
    tensor.sum_copied(model.parameters(), mesh)
    gradients = {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor) and isinstance(parameter.grad, DTensor)
        gradients[name] = parameter.grad.full_tensor()
        assert copies(parameter, mesh) == (mesh.world.size if cut(name) == "copied" else 1)
    return gradients, scores.detach(), model.blocks.get_submodule("1").feed_forward.seen


def test_another_feed_forward_gets_a_ranks_positions_and_scores_are_whole(two: Ranks) -> None:
    tokens = torch.randint(0, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))
    model = _model()
    scores = model.logits(model(tokens, PackedRows(torch.zeros_like(tokens))))
    scores.square().mean().backward()
    for gradients, found, seen in two.run(_other, tokens):
        torch.testing.assert_close(found, scores.detach())
        assert seen == 8
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


def _meta() -> tuple[dict[str, tuple[int, ...]], bool]:
    mesh, _ = _line()
    with torch.device("meta"):
        model = Decoder(decoder_config(Case()))
    tensor.apply(model, mesh.plan, mesh)
    shapes = {name: tuple(p.to_local().shape) for name, p in model.named_parameters()}
    return shapes, model.output.weight is model.embedding.weight


def test_a_model_without_storage_is_cut_too(two: Ranks) -> None:
    for shapes, tied in two.run(_meta):
        assert tied
        assert shapes["embedding.weight"] == (VOCABULARY // 2, 32)
        assert shapes["blocks.0.attention.o.weight"] == (32, 16)
        assert shapes["blocks.0.attention.q_norm.weight"] == (8,)


class _Counted(TorchDispatchMode):
    """Counts calls of operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def _collectives(layers: int, recompute: str) -> list[tuple[int, int]]:
    """Gathers and reduce-scatters of one forward pass, and of its backward pass."""
    mesh, _ = _line()
    model = Decoder(decoder_config(Case(config={"num_hidden_layers": layers})))
    plan = Plan.parse(f"tp={mesh.world.size},recompute={recompute}")
    part = parallelise(model, plan, mesh, torch.float32)
    rows = part.rows(batch(0, False))
    with _Counted() as forward:
        loss = Pretrain().loss(model, rows, 1.0, torch.float32)
    with _Counted() as backward:
        loss.backward()  # type: ignore[no-untyped-call]
    names = ("all_gather_into_tensor", "reduce_scatter_tensor")
    return [(mode.calls[names[0]], mode.calls[names[1]]) for mode in (forward, backward)]


@pytest.mark.parametrize(
    ("recompute", "backward"), [("none", (2, 2)), ("selective", (3, 2)), ("full", (4, 3))]
)
def test_a_block_sends_what_the_planner_counts(two: Ranks, recompute: str, backward: tuple[int, int]) -> None:
    shallow, deep = (two.run(_collectives, layers, recompute)[0] for layers in (1, 2))
    each = [tuple(a - b for a, b in zip(*pair, strict=True)) for pair in zip(deep, shallow, strict=True)]
    assert each == [(2, 2), backward]

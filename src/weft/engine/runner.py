"""One step of the model: the tokens of the scheduled work in, scores for the next tokens out."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from weft.core.errors import CheckpointError, UsageError
from weft.core.hardware import probe
from weft.engine.adapters import Adapters
from weft.engine.cache import StepContext
from weft.engine.flat_step import step_context
from weft.engine.sampler import DAMAGED, logprobs
from weft.engine.scheduler import Work
from weft.engine.sequence import Sequence
from weft.models import Decoder
from weft.ops.cache import AttentionContext, NativeModel
from weft.ops.linear import row_invariant
from weft.ops.paged import Pages

M = TypeVar("M", bound=nn.Module)

_SCORED = 32
"""Positions of a prompt whose scores are held at once: 20 MB with 150,000 tokens in fp32."""


class StepRunner(Protocol):
    """A model and its cache, of any kind that the engine runs; ``adapters`` where there can be some."""

    model: Any
    adapters: Adapters | None

    def run(self, work: Items[Work]) -> Tensor:
        """As :meth:`Runner.run`."""
        ...


class CapturedSteps(Protocol):
    """Steps of the model that a GPU has recorded (:mod:`weft.engine.graphs`)."""

    def run(self, work: Items[Work]) -> Tensor | None:
        """As :meth:`Runner.run`, valid until the next call; None for what was not recorded."""
        ...


class Runner:
    """A decoder and its cache; rows of requests with an adapter go through the decoder of ``adapters``.

    Only the first ``vocabulary`` tokens can be drawn (None: all that the decoder knows). Steps that
    ``captured`` has go through it.
    """

    def __init__(
        self, model: Decoder, pages: Pages, adapters: Adapters | None = None, vocabulary: int | None = None
    ):
        self.model, self.pages, self.adapters = model.eval(), pages, adapters
        self._vocabulary = vocabulary
        self.captured: CapturedSteps | None = None

    @torch.inference_mode()
    def run(self, work: Items[Work]) -> Tensor:
        """Scores fp32 [M, V] after the newest token of each sequence that has it in ``work``, and its drafts.

        The M rows stand in the order of ``work``, those after drafts behind that of their sequence, and those
        of all beams of a search together. Sequences
        whose prompt's log probabilities are wanted get those of the tokens in ``work``.
        """
        self.pages.copy([pair for item in work if item.sequence.beams for pair in item.copies])
        adapted = [item for item in work if item.sequence.adapter is not None]
        with row_invariant():
            if not adapted:
                scores = self.captured.run(work) if self.captured is not None else None
                return self._scores(self.model, work) if scores is None else scores
            assert self.adapters is not None
            base = [item for item in work if item.sequence.adapter is None]
            with self.adapters.on(_adapter_rows(adapted)):
                parts = _by_sequence(adapted, self._scores(self.adapters.model, adapted))
            if base:
                parts |= _by_sequence(base, self._scores(self.model, base))
            return torch.cat([parts[item.sequence] for item in work])

    def _scores(self, model: Decoder, work: Items[Work]) -> Tensor:
        tokens, wanted = step_tokens(work)
        context = step_context(self.pages, work)
        native = None
        if isinstance(model, NativeModel) and type(context) is StepContext:
            native = model.step(tokens, wanted, context)
        hidden, scores = native or self._layer_by_layer(model, tokens, wanted, context)
        if any(item.sequence.asks_of_prompt for item in work):
            hidden = hidden[: len(tokens)]
            self._take_prompts(model, hidden, work)
        return scores

    def _layer_by_layer(
        self, model: Decoder, tokens: list[int], wanted: list[int], context: AttentionContext
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`weft.ops.cache.NativeModel.step`."""
        device = self.pages.device
        hidden: Tensor = model(torch.tensor([tokens], device=device), context)[0]
        if not wanted:
            return hidden, torch.empty((0, model.config.vocab_size), device=device)
        some = hidden[torch.tensor(wanted, device=device)] if len(wanted) < len(tokens) else hidden
        return hidden, model.logits(some).float()

    def _take_prompts(self, model: Decoder, hidden_TE: Tensor, work: Items[Work]) -> None:
        """Give what was asked about their prompts to the sequences of ``work``."""
        begin = 0
        for item in work:
            rows_TE = hidden_TE[begin : begin + item.rows]
            try:
                self._score_prompt(model, rows_TE, item)
                _pool(rows_TE, item)
            except Exception as failure:
                item.sequence.fail(failure)
            begin += item.rows

    def _score_prompt(self, model: Decoder, hidden_TE: Tensor, item: Work) -> None:
        """Append the log probabilities of the prompt's tokens that follow the rows of ``item``."""
        sequence = item.sequence
        for places in _pieces(sequence.unscored(item.tokens)):
            rows_ME = hidden_TE[places.start - sequence.cached : places.stop - sequence.cached]
            scores_MV = model.logits(rows_ME).float()[:, : self._vocabulary]
            following = sequence.tokens[places.start + 1 : places.stop + 1]
            sequence.prompt_logprobs += logprobs(scores_MV, following, sequence.params.prompt_logprobs or 0)


def _pool(hidden_TE: Tensor, item: Work) -> None:
    """Give its hidden states to a sequence whose vector is wanted. CheckpointError when some are NaN."""
    sequence = item.sequence
    places = sequence.unpooled(item.tokens)
    if sequence.pooled is None or not places:
        return
    rows = hidden_TE[places.start - sequence.cached : places.stop - sequence.cached].float().cpu()
    if not rows.isfinite().all():
        raise CheckpointError(DAMAGED)
    sequence.pooled.add(rows.numpy())


def step_tokens(work: Items[Work]) -> tuple[list[int], list[int]]:
    """The tokens of the rows of a step, and the rows whose scores are wanted."""
    tokens: list[int] = []
    wanted: list[int] = []
    for item in work:
        past, drafts = item.sequence.cached, item.drafts
        for line in item.sequence.lines:
            tokens += line.tokens[past : past + item.tokens]
            if drafts:
                tokens += drafts
            if item.last:
                wanted += range(len(tokens) - 1 - len(drafts), len(tokens))
    return tokens, wanted


def _pieces(places: range) -> list[range]:
    return [places[first : first + _SCORED] for first in range(0, len(places), _SCORED)]


def _adapter_rows(work: Items[Work]) -> list[tuple[slice, str]]:
    """Which rows of a step go through which adapter."""
    rows, end = [], 0
    for item in work:
        assert item.sequence.adapter is not None
        rows.append((slice(end, end + item.rows), item.sequence.adapter))
        end += item.rows
    return rows


def _by_sequence(work: Items[Work], scores: Tensor) -> dict[Sequence, Tensor]:
    """The rows of scores that belong to each sequence."""
    parts = torch.split(scores, [item.scored for item in work])
    return dict(zip((item.sequence for item in work), parts, strict=True))


def best_dtype(device: torch.device, name: str | None = None) -> torch.dtype:
    """The dtype of weights and cache: ``name``, or bf16 where the processor computes in it, else fp32."""
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name is not None:
        if name not in names:
            raise UsageError(f"dtype = {name!r} is not a choice; write one of: {', '.join(names)}.")
        return names[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = {"avx512_bf16", "amx_bf16"} & set(probe().instruction_sets)
    return torch.bfloat16 if native else torch.float32


def prepare(model: M, device: torch.device, dtype: torch.dtype) -> M:
    """Move the model, in place; matrices and biases become ``dtype``.

    Norms, routers and frequencies keep fp32.
    """
    model.to(device).requires_grad_(False)
    for name, parameter in model.named_parameters():
        matrix = name.endswith("bias") or (parameter.ndim > 1 and not name.endswith("router.weight"))
        parameter.data = parameter.data.to(dtype if matrix else torch.float32)
    return model.eval()

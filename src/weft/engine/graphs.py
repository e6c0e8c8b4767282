"""Decode steps that a GPU has recorded (CUDA graphs), so that a step costs one launch and not hundreds.

A graph replays the same kernels on the same memory: so a step of n rows goes into buffers that stay, filled
up to the next of a few sizes with rows that belong to nobody and write to the scratch block of the cache.
Drafts are rows like others: each has its own position and the block table of its sequence.

Dimensions: N rows, W entries of a block table, V vocabulary size.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from weft.engine.cache import step_items
from weft.engine.flat_step import FlatStep, LoneRows, compare_paged, fill, sizes
from weft.engine.fused import dense
from weft.engine.runner import Runner, step_tokens
from weft.engine.scheduler import Work
from weft.engine.speculative import MOST
from weft.models import Decoder
from weft.ops.compiled import plainly, said, wanted
from weft.ops.flat_pages import FlatPages
from weft.ops.linear import row_invariant
from weft.ops.page_layout import PAGE, Item

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Runs a function, records it, and returns what replays it."""

_BOUNDS = {"float32": 5e-3, "bfloat16": 0.15, "fp8": 0.5, "int8": 0.5}
"""How far scores may lie from those of the plain step, as a share of their size. Other kernels round in
another order, and a number that falls on the other side of a step of 8 bits moves by all of it, in every
layer: two right results of a deep model may differ by this much, and unrelated ones differ by 1.4. Attention
alone is compared far more closely (:func:`weft.engine.flat_step.compare_paged`)."""

_MOST_DRAFTED = 128
"""Rows of recorded steps with drafts: behind them a step has work enough to hide its launches."""

_log = logging.getLogger("weft.engine")


class Graphs:
    """Steps of so many rows (ascending), recorded when it is made; ``replays`` counts those that ran.

    ``capture`` records one (by default as a CUDA graph).
    """

    def __init__(self, model: Decoder, pages: FlatPages, rows: Items[int], capture: Capture | None = None):
        self._model, self._pages = model, pages
        self.sizes, self.replays = rows, 0
        shape = (self.sizes[-1], 3 + pages.width)
        self._host = torch.zeros(shape, dtype=torch.int32, pin_memory=pages.device.type == "cuda")
        self._rows = torch.zeros(shape, dtype=torch.int32, device=pages.device)
        self._scores = torch.zeros(shape[0], model.config.vocab_size, device=pages.device)
        self._fill([], [], shape[0])
        record = cuda_capture(pages.device) if capture is None else capture
        # The largest first: the others take their memory from its pool.
        self._replay = {size: record(functools.partial(self._step, size)) for size in reversed(self.sizes)}

    def run(self, work: Items[Work]) -> Tensor | None:
        """Scores fp32 [M, V] as :meth:`weft.engine.runner.Runner.run` gives them, valid until the next call.

        None where the work is more than decoding: chunks of prompts, adapters, vectors, probabilities of a
        prompt; and for more rows than the largest graph has.
        """
        rows = sum(item.rows for item in work)
        if rows > self.sizes[-1] or not all(map(_decodes, work)):
            return None
        tokens, wanted = step_tokens(work)
        scores_NV = self.scores(tokens, step_items(work))
        if len(wanted) == rows:
            return scores_NV
        return scores_NV[torch.tensor(wanted, dtype=torch.int64, device=self._pages.device)]

    def scores(self, tokens: Items[int], items: Items[Item], size: int | None = None) -> Tensor:
        """fp32 [N, V] of ``tokens`` at the positions of ``items``, a view that the next call overwrites.

        ``size`` is that of the graph (None: the smallest that holds them).
        """
        if size is None:
            size = next(size for size in self.sizes if size >= len(tokens))
        self._fill(tokens, items, size)
        self._replay[size]()
        self.replays += 1
        return self._scores[: len(tokens)]

    def _fill(self, tokens: Items[int], items: Items[Item], size: int) -> None:
        rows = self._host[:size].numpy()
        rows[:, 0] = 0
        rows[: len(tokens), 0] = tokens
        fill(rows[:, 1:], items, self._pages.scratch)
        # The host's buffer is free again when the step's tokens were read, before the next one is filled.
        self._rows[:size].copy_(self._host[:size], non_blocking=True)

    def _step(self, size: int) -> None:
        rows = self._rows[:size]
        hidden = self._model(rows[:, 0].unsqueeze(0), LoneRows(self._pages, rows[:, 1:]))
        self._scores[:size].copy_(self._model.logits(hidden)[0])


def step_sizes(most: int, drafts: bool) -> list[int]:
    """Numbers of rows that are recorded, and for which attention is compiled.

    The ladder up to ``most`` sequences, and at least a token and its guesses; with ``drafts`` a few more, up
    to 4 rows for each and 128 at most: each takes its time when an engine is made.
    """
    ladder = sizes(max(most, 1 + MOST))
    while drafts and ladder[-1] < min(_MOST_DRAFTED, 4 * most):
        ladder.append(1 << ladder[-1].bit_length())
    return ladder


def _decodes(item: Work) -> bool:
    sequence = item.sequence
    plain = sequence.adapter is None and sequence.pooled is None
    return plain and item.tokens <= 1 and not sequence.unscored(item.tokens)


def cuda_capture(device: torch.device) -> Capture:
    """Records functions as CUDA graphs that share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(function: Callable[[], None]) -> Callable[[], None]:
        # What compiles, allocates or picks an algorithm the first time does so before the recording, on the
        # stream that will be recorded, which is not the usual one, as PyTorch asks.
        usual = torch.cuda.current_stream(device)
        aside.wait_stream(usual)
        with torch.cuda.stream(aside):
            for _ in range(2):
                function()
        usual.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=aside):
                function()
        except BaseException:
            # PyTorch ends the recording first, which raises again, and leaves the process on that stream.
            torch.cuda.set_stream(usual)
            raise
        return graph.replay

    return capture


def captured_steps(
    runner: Runner, most: int, budget: int, drafts: bool, capture: Capture | None = None
) -> Graphs | None:
    """Graphs of steps of up to ``most`` sequences (:func:`step_sizes`), compared with plain steps.

    Attention to as many rows, and to prompts of up to ``budget`` tokens a step, is compiled and compared as
    well, also where no graphs are. Nothing may be cached yet.
    None, and one warning, where recording fails or scores differ; None without one on a processor, for models
    with experts, and where ``WEFT_GRAPHS`` or ``WEFT_COMPILE`` is ``off``.
    """
    pages = runner.pages
    if not isinstance(pages, FlatPages) or not wanted():
        return None
    off = os.environ.get("WEFT_GRAPHS", "on").lower() in ("off", "0")
    rows = step_sizes(most, drafts)
    # As steps run: what is compiled otherwise is compiled again in the first of them.
    with torch.inference_mode(), row_invariant():
        compare_paged(pages, rows, budget)
        if off or not pages.paged or not dense(runner.model):
            return None
        return _recorded(runner.model, pages, rows, capture)


def _recorded(model: Decoder, pages: FlatPages, rows: Items[int], capture: Capture | None) -> Graphs | None:
    try:
        graphs = Graphs(model, pages, rows, capture)
        worst = float(torch.tensor([_difference(graphs, model, pages, n) for n in graphs.sizes]).max())
    except Exception as failure:
        _log.warning("CUDA graphs are not in use here (%s); steps are slower.", said(failure))
        return None
    bound = _BOUNDS.get(model.number_format, 0.15)
    # NaN is not below the bound either.
    if not worst <= bound:
        _log.warning(
            "CUDA graphs are not in use here: their scores differ from plain ones by %.2g of their size, and "
            "%.2g is allowed; steps are slower.",
            worst,
            bound,
        )
        return None
    graphs.replays = 0
    return graphs


def _difference(graphs: Graphs, model: Decoder, pages: FlatPages, size: int) -> float:
    """How far scores of a graph lie from those of the plain step, over noise in the cache."""
    blocks = min(pages.scratch, size + 1)
    noise = torch.Generator(pages.device).manual_seed(size)
    for tensor in (*pages.keys, *pages.values):
        tensor[:blocks].normal_(generator=noise)
    long = min(2, pages.width, blocks)
    begun = torch.arange(long * PAGE, device=pages.device)
    pages.place(begun, begun)
    items = [Item(0, 1, long * PAGE - 6, range(long))]
    # One row less than there is room for, where that leaves any: what fills up is part of the check.
    for block in range(long, min(blocks, long + max(0, size - 2))):
        items.append(Item(len(items), 1, block % PAGE, [block]))
    tokens = [(7919 * place + 11) % model.config.vocab_size for place in range(len(items))]
    found = graphs.scores(tokens, items, size).clone()
    with plainly():
        context = FlatStep(pages, items)
        hidden = model(torch.tensor([tokens], device=pages.device), context)
        expected = model.logits(hidden)[0].float()
    return float((found - expected).norm() / expected.norm())

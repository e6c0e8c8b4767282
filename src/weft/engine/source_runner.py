"""One step of an encoder-decoder: sources are read, then every sequence goes on from where it is."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from weft.engine.adapters import Adapters
from weft.engine.cache import SourceContext, WritingStep
from weft.engine.runner import step_tokens
from weft.engine.scheduler import Work
from weft.models.encdec import EncoderDecoder
from weft.ops.linear import row_invariant
from weft.ops.paged import Pages


class SourceRunner:
    """An encoder-decoder and its cache; a :class:`weft.engine.runner.StepRunner`."""

    adapters: Adapters | None = None

    def __init__(self, model: EncoderDecoder, pages: Pages):
        self.model, self.pages = model.eval(), pages
        with torch.no_grad():
            self._around, self._back = model.encoder.distances(), model.decoder.distances()

    @torch.inference_mode()
    def run(self, work: Items[Work]) -> Tensor:
        """As :meth:`weft.engine.runner.Runner.run`."""
        self.pages.copy([pair for item in work for pair in item.copies])
        with row_invariant():
            self._read([item for item in work if item.source])
            return self._write([item for item in work if item.rows])

    def _read(self, work: Items[Work]) -> None:
        if work:
            tokens = [token for item in work for token in item.sequence.source]
            context = SourceContext(self.pages, work, self._around)
            self.model.read(torch.tensor(tokens, device=self.pages.device), context)

    def _write(self, work: Items[Work]) -> Tensor:
        tokens, wanted = step_tokens(work)
        device = self.pages.device
        if not tokens:
            return torch.empty((0, self.model.config.vocab_size), device=device)
        context = WritingStep(self.pages, work, self._back)
        hidden = self.model.write(torch.tensor(tokens, device=device), context)
        if not wanted:
            return torch.empty((0, self.model.config.vocab_size), device=device)
        return self.model.logits(hidden[torch.tensor(wanted, dtype=torch.long, device=device)]).float()

"""The evaluation protocol on a decoder: likelihoods from the model itself, generation from whoever has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from weft.core.errors import DataError
from weft.eval.metrics.bits_per_byte import document_bits
from weft.eval.protocol import GenerateRequest, Generation, Likelihood, LikelihoodRequest
from weft.models import Decoder
from weft.ops.attention import PackedRows
from weft.tokenizer import Tokenizer

Generate = Callable[[Sequence[GenerateRequest]], list[Generation]]


class DecoderModel:
    """A :class:`weft.eval.protocol.LanguageModel` of a decoder, its tokenizer and a generator (an engine)."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, generate: Generate) -> None:
        self.model, self.tokenizer, self._generate = model, tokenizer, generate
        self.context = model.config.max_position_embeddings

    def loglikelihood(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        """Each continuation after its context, in nats; a context too long loses its beginning.

        Context and continuation are encoded as one text, and the continuation is what follows the
        context's own tokens, as in lm-evaluation-harness. Raises DataError for a continuation that is
        empty or longer than the model's context.
        """
        return [self._likelihood(request) for request in requests]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Nats of each text as a document, its end of text included; windows share half of the context."""
        documents = [[*ids, self.tokenizer.eos_id] for ids in self.tokenizer.encode_batch(texts)]
        lengths = np.array([len(document) for document in documents], np.int64)
        tokens = np.concatenate([np.array(document, np.int64) for document in documents] or [lengths])
        end, overlap = self.tokenizer.eos_id, self.context // 2
        bits = document_bits(self.model, tokens, lengths, end, context=self.context, overlap=overlap)
        return [-float(value) * math.log(2) for value in bits]

    def generate_until(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """What the generator passed in makes of the requests."""
        return self._generate(requests)

    @torch.inference_mode()
    def _likelihood(self, request: LikelihoodRequest) -> Likelihood:
        whole = self.tokenizer.encode(request.context + request.continuation)
        split = min(len(self.tokenizer.encode(request.context)), max(len(whole) - 1, 0))
        targets = whole[split:]
        if not request.continuation or not 0 < len(targets) <= self.context:
            raise DataError(
                f"A continuation of {len(targets)} tokens cannot be scored by a model with a context of "
                f"{self.context}; give at least one token and at most that many."
            )
        inputs = [self.tokenizer.eos_id, *whole[:-1]][-self.context :]
        tokens = torch.tensor([inputs], device=self.model.embedding.weight.device)
        rows = PackedRows(torch.zeros_like(tokens, dtype=torch.int32), self.model.config.sliding_window)
        hidden = self.model(tokens, rows)[0, -len(targets) :]
        logs = self.model.logits(hidden).float().log_softmax(-1)
        wanted = torch.tensor(targets, device=logs.device)
        chosen = logs.gather(-1, wanted.unsqueeze(-1)).sum(dtype=torch.float64)
        return Likelihood(float(chosen), bool((logs.argmax(-1) == wanted).all()))

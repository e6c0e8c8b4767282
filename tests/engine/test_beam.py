"""Beam search against one written out with full recomputation."""

from __future__ import annotations

import pytest
import torch

from weft.core.errors import UsageError
from weft.engine import LLM
from weft.engine.beam import beam_search
from weft.ops.attention import PackedRows


def reference(model, ends, prompt, width, max_tokens, penalty):
    def score(pair):
        return pair[1] / len(pair[0]) ** penalty

    beams, complete = [((), 0.0)], []
    for _ in range(max_tokens):
        grown = []
        for tokens, total in beams:
            row = torch.tensor([[*prompt, *tokens]])
            context = PackedRows(torch.zeros(row.shape, dtype=torch.int32))
            logs = model.logits(model(row, context))[0, -1].log_softmax(-1)
            grown += [((*tokens, t), total + float(logs[t])) for t in range(len(logs))]
        grown = sorted(grown, key=lambda pair: -pair[1])[: 2 * width]
        complete += [pair for pair in grown[:width] if pair[0][-1] in ends]
        complete = sorted(complete, key=lambda pair: -score(pair))[:width]
        beams = [pair for pair in grown if pair[0][-1] not in ends][:width]
        if len(complete) == width and score(beams[0]) <= score(complete[-1]):
            break
    return sorted(complete + beams, key=lambda pair: -score(pair))[:width]


@pytest.mark.parametrize(("width", "penalty", "boost"), [(1, 1.0, 1), (3, 1.0, 1), (4, 0.5, 6), (5, 2.0, 6)])
def test_beams_equal_the_reference(tiny_decoder, tiny_tokenizer, width, penalty, boost):
    model = tiny_decoder(tie_word_embeddings=False)
    engine = LLM(model, tiny_tokenizer)
    for end in engine.ends:
        model.output.weight[end] *= boost
    prompt = list(range(50, 70))
    expected = reference(model, engine.ends, prompt, width, 7, penalty)
    found = beam_search(engine, prompt, width=width, max_tokens=7, length_penalty=penalty)
    assert [beam.tokens for beam in found] == [tokens for tokens, _ in expected]
    assert [beam.logprob for beam in found] == pytest.approx([total for _, total in expected], abs=1e-3)
    if boost > 1:
        assert any(beam.ended for beam in found)
    assert engine.stats().free_blocks == engine.stats().total_blocks


def test_the_first_beam_of_width_one_is_greedy(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    (beam,) = beam_search(engine, [1, 2, 3], width=1, max_tokens=400)
    assert len(beam.tokens) == engine.context - 3 or beam.ended


def test_a_width_without_sense_is_refused(tiny_decoder, tiny_tokenizer):
    with pytest.raises(UsageError, match="width = 0"):
        beam_search(LLM(tiny_decoder(), tiny_tokenizer), [1], width=0, max_tokens=3)

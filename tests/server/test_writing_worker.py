"""Texts to be written, without a server: each begins and ends when it can, and is what Python gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from weft.api import WritingModel
from weft.core.errors import CheckpointError, UsageError
from weft.models.encdec import EncoderDecoder
from weft.models.encdec_config import EncoderDecoderConfig
from weft.server.task_bodies import MOST_BEAMS
from weft.server.tasks import SOURCE_TOKENS
from weft.server.writing import Asked, WritingWorker
from weft.tasks import Card
from weft.tokenizer import Tokenizer

SHAPE = EncoderDecoderConfig(
    vocab_size=512, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4
)
TEXTS = ("今天天气很好", "the quick brown fox jumps over the lazy dog", "a", "print(add(1, 2))")


@pytest.fixture
def model(tiny_tokenizer: Tokenizer) -> WritingModel:
    made = EncoderDecoder(SHAPE)
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=noise)
    return WritingModel(made.requires_grad_(False), tiny_tokenizer, Card("translation", "pairs"))


def asked(worker: WritingWorker, text: str, owner: str = "", **settings: Any) -> Asked:
    message = {"op": "task", "task": "translate", "item": {"text": text}, "settings": settings}
    return worker.add({**message, "owner": owner})


def steps_until(worker: WritingWorker, *requests: Asked) -> int:
    """Steps until all of them are written."""
    waiting, count = set(requests), 0
    while waiting:
        waiting -= set(worker.step())
        count += 1
        assert count < 500
    return count


def record(worker: WritingWorker, request: Asked) -> dict[str, Any]:
    found: dict[str, Any] = worker.news(request)["record"]
    return found


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_python(model: WritingModel, beams: int) -> None:
    worker = WritingWorker(model, 3)
    requests = []
    for text in TEXTS:
        requests.append(asked(worker, text, beams=beams, max_length=9))
        worker.step()
    steps_until(worker, *(one for one in requests if one.answers is None))
    for text, request in zip(TEXTS, requests, strict=True):
        expected = model.translate(text, beams=beams, max_length=9).table()
        found = record(worker, request)
        assert found.keys() == expected.keys() and found["text"] == expected["text"]
        assert found["score"] == pytest.approx(expected["score"], rel=1e-4)
        assert found["confident"] == expected["confident"]
        news = worker.news(request)
        assert news["finish"] == "stop"
        assert news["tokens"] == len(model.tokenizer.encode(found["text"]))
    assert worker.stats()["running"] == worker.stats()["waiting"] == 0
    assert worker.stats()["free_blocks"] == worker.stats()["total_blocks"]


@pytest.mark.parametrize("short", [1, 4], ids=["greedy", "beams"])
@pytest.mark.parametrize("long", [1, 4], ids=["beside greedy", "beside beams"])
def test_a_long_answer_holds_up_no_short_one(model: WritingModel, short: int, long: int) -> None:
    model.model.output.weight[model.tokenizer.eos_id] = 0  # hardly any answer ends by itself
    worker = WritingWorker(model, 4)
    slow = asked(worker, TEXTS[1], beams=long, max_length=200)
    for _ in range(3):
        assert worker.step() == []
    quick = asked(worker, TEXTS[0], beams=short, max_length=5)
    assert steps_until(worker, quick) == 5
    assert slow.answers is None and worker.position(slow) > 0


def test_what_is_aborted_is_gone_with_the_next_step(model: WritingModel) -> None:
    worker = WritingWorker(model, 4)
    requests = [asked(worker, text, beams=beams, max_length=50) for text in TEXTS[:2] for beams in (1, 4)]
    kept = asked(worker, TEXTS[3], beams=4, max_length=6)
    worker.step()
    for request in requests:
        worker.abort(request)
        assert worker.news(request) == {"text": "", "tokens": 0, "finish": "abort"}
    worker.step()
    # A block for the source of the one that is left, and one for what it writes.
    assert worker.stats()["free_blocks"] == worker.stats()["total_blocks"] - 2
    assert worker.stats()["running"] == 1
    steps_until(worker, kept)
    assert record(worker, kept)["text"] == model.translate(TEXTS[3], beams=4, max_length=6)
    waiting = asked(worker, TEXTS[3])
    worker.abort(waiting)
    assert worker.step() == [] and worker.stats()["waiting"] == 0


def test_keys_take_turns(model: WritingModel) -> None:
    for beams in (1, 2):
        worker = WritingWorker(model, 1)
        mine = [asked(worker, text, "ann", beams=beams, max_length=3) for text in TEXTS[:3]]
        other = asked(worker, TEXTS[3], "bob", beams=beams, max_length=3)
        steps_until(worker, other)
        assert [one.answers is not None for one in mine] == [True, False, False]


@pytest.mark.parametrize("most", [1, 2])
def test_a_server_of_few_texts_has_room_for_the_widest_search(model: WritingModel, most: int) -> None:
    worker = WritingWorker(model, most)
    order = model.order("translate", "a", {})
    text = "a" * (SOURCE_TOKENS - len(order.source))
    assert SOURCE_TOKENS - 64 <= len(model.order("translate", text, {}).source) <= SOURCE_TOKENS
    # Without a limit of its own the answer may be twice as long as the source.
    request = asked(worker, text, beams=MOST_BEAMS)
    for _ in range(3):
        worker.step()
    assert len(request.sequence.lines) == MOST_BEAMS
    worker.abort(request)
    assert worker.stats()["free_blocks"] == worker.stats()["total_blocks"]


def test_what_cannot_be_is_refused(model: WritingModel) -> None:
    worker = WritingWorker(model, 2)
    with pytest.raises(UsageError, match="continues no text"):
        worker.add({"op": "add"})
    with pytest.raises(UsageError, match="not trained for summarize"):
        worker.add({"op": "task", "task": "summarize"})
    for text, settings, message in (
        ("a", {"target_language": "zh"}, "without languages"),
        ("a", {"beams": 0}, "beams = 0 must be at least 1"),
        (" ", {}, "Text 0 is empty"),
        ("\ud800", {}, "lone surrogates"),
        ("a b " * SOURCE_TOKENS, {"beams": 1}, "but a step reads"),
    ):
        with pytest.raises(UsageError, match=message):
            asked(worker, text, **settings)
    with pytest.raises(UsageError, match="Adapters are for decoders"):
        worker.change_adapter("a", "b")
    with pytest.raises(UsageError, match="not trained for embed"):
        worker.add({"op": "embed", "tokens": [1], "owner": ""})
    assert worker.stats()["waiting"] == 0


@pytest.mark.parametrize("beams", [1, 2])
def test_damaged_weights_are_told(model: WritingModel, beams: int) -> None:
    worker = WritingWorker(model, 2)
    with torch.no_grad():
        model.model.decoder.norm.weight.fill_(float("nan"))
    request = asked(worker, TEXTS[0], beams=beams, max_length=3)
    assert worker.step() == [request]
    with pytest.raises(CheckpointError, match="NaN"):
        worker.news(request)
    assert worker.stats()["free_blocks"] == worker.stats()["total_blocks"]

"""Weft's own engine process: ``python -m weft.server.host FD``, with a socket to the server at that number.

It loads one checkpoint of any kind and works for it; it ends when the other side is gone, reads nothing else
and listens nowhere.
"""

from __future__ import annotations

import sys
from typing import Any

from weft.api import Model, ReadingModel, WritingModel, load
from weft.core.errors import ResourceError
from weft.server import seam, tasks
from weft.server.loop import Worker, work
from weft.server.wire import Message
from weft.server.writing import WritingWorker

OPTIONS = (
    *("dtype", "device", "max_sequences", "adapters", "draft", "draft_layers", "speculation", "cache_dtype"),
)
"""What of a ``load`` message goes to :func:`weft.load`."""


def open_worker(order: Message) -> tuple[Worker[Any], Message]:
    """The checkpoint that the server names, ready for work. Raises WeftError."""
    try:
        return _opened(order)
    except (MemoryError, RuntimeError) as error:
        # RuntimeError is what torch says when there is no memory: for weights, or for the first steps.
        raise ResourceError(f"The model cannot load: {error}") from error


def _opened(order: Message) -> tuple[Worker[Any], Message]:
    model: Model | ReadingModel | WritingModel
    model = load(order["checkpoint"], **{key: order[key] for key in OPTIONS})
    if isinstance(model, WritingModel):
        most, guesses = order["max_sequences"], order["speculation"]
        return WritingWorker(model, most, speculation=guesses), tasks.facts(model)
    if isinstance(model, ReadingModel):
        return tasks.TaskWorker(model, order["max_sequences"]), tasks.facts(model)
    shape = model.llm.runner.model.config
    worker = seam.LlmWorker(model.llm)
    worker.warm()
    return worker, {
        "architecture": model.architecture,
        "context": model.llm.context,
        "vocabulary": shape.vocab_size,
        "hidden": shape.hidden_size,
        "supported": seam.supported(),
        "weights": seam.weights(model.llm),
    }


if __name__ == "__main__":
    work(int(sys.argv[1]), open_worker)

"""What is measured of a candidate on the validation split: its figure with an interval, and its time a text.

Texts come out of the shards, so that a data folder is all that a sweep needs. Spans are compared in tokens.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weft import api
from weft.api.reading import ReadingModel
from weft.checkpoint.huggingface import load_any, resolve
from weft.checkpoint.kinds import read_config
from weft.core import manifest
from weft.data.answers import Answers
from weft.data.forms.offsets import start_ids
from weft.data.forms.tag import spans_of
from weft.data.indexed import ShardReader
from weft.data.schema import SHARDS, TOKENIZER
from weft.data.shards import open_split
from weft.data.supervised_writer import LABELS
from weft.data.terms import terms
from weft.eval.baselines.memory import EntityMemory
from weft.eval.compare import Estimate, ratio, wilson
from weft.eval.metrics.spans import Span, span_figures
from weft.parallel.model import ParallelModel
from weft.recipes.advise.candidates import Candidate, Subject, run_of
from weft.tasks.naive_bayes import NaiveBayes
from weft.tokenizer import Tokenizer
from weft.train import rows
from weft.train.objectives.choose import choose

Ints = npt.NDArray[np.int64]

TIMED = 32
"""Texts whose time is taken, one by one."""
TIMED_SECONDS = 5.0
"""After which no further text is timed."""
PROMPT, WRITTEN = 32, 32
"""Tokens of a prompt, and those that a decoder writes behind it, where a text is timed."""

_PLANE = 0x10000
"""Tokens as characters of this plane and those above, which no text of a data set is compared with."""


@dataclass(frozen=True)
class Measured:
    """``quality`` with its 95 % interval; milliseconds for one text (median); bytes of the weights.

    ``written``: of pairs, the F1 of terms of what was written for a few texts, 0 to 1.
    """

    quality: Estimate | None
    milliseconds: float
    memory_bytes: int
    parameters: int
    written: float | None = None


def trained(subject: Subject, candidate: Candidate, folder: Path) -> Measured:
    """Measure the model that was trained in ``folder``."""
    model = api.load(folder)
    weights = sum(file.stat().st_size for file in (folder / "model").glob("*.safetensors"))
    config = read_config(resolve(folder))
    written = None
    if subject.task == "classify":
        quality, milliseconds = _accuracy(subject, model), _labelling(subject, model, model.classify)
    elif subject.task == "tag":
        quality = _span_f1(subject, model)
        milliseconds = _labelling(subject, model, lambda text: model.tagged([(text, None)]))
    elif subject.task == "pairs":
        quality = _loss(subject, candidate, folder)
        milliseconds, written = _writing(subject, model)
    else:
        quality, milliseconds = _loss(subject, candidate, folder), _continuing(subject, model)
    return Measured(quality, milliseconds, weights, config.parameters, written)


def floor(subject: Subject, candidate: Candidate) -> Measured:
    """Fit what learns without gradients on the training split, and measure it like the others."""
    return {"naive-bayes": _naive_bayes, "memory": _memory, "copying": _copying}[candidate.key](subject)


def median_milliseconds(
    answer: Callable[[str], object],
    texts: Sequence[str],
    limit: float = TIMED_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The median time of a text, one after another until ``limit`` seconds are over; the first one warms up.

    Without texts it is 0.
    """
    if not texts:
        return 0.0
    answer(texts[0])
    began, taken = clock(), []
    for text in texts:
        before = clock()
        answer(text)
        taken.append(clock() - before)
        if clock() - began > limit:
            break
    return 1000 * statistics.median(taken)


def _accuracy(subject: Subject, model: ReadingModel) -> Estimate:
    documents, labels = _labelled(subject.valid.reader, subject.length, subject.most_tokens)
    found = model.reader.classes(documents).argmax(axis=1)
    gold = np.array([own[0] for own in labels])
    return wilson(int((found == gold).sum()), len(gold))


def _span_f1(subject: Subject, model: ReadingModel) -> Estimate:
    documents, labels = _labelled(subject.valid.reader, subject.length, subject.most_tokens)
    gold = [_spans(own, model.labels) for own in labels]
    found = [_spans(model._best(scores), model.labels) for scores in model.reader.tokens(documents)]
    return _f1(gold, found)


def _f1(gold: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]]) -> Estimate:
    figures = span_figures(gold, found)
    sizes = figures.found + figures.gold
    kept = sizes > 0
    if not kept.any():
        return Estimate(0.0, 0.0, 0.0)
    return ratio(2 * figures.hits[kept], sizes[kept])


def _loss(subject: Subject, candidate: Candidate, folder: Path) -> Estimate:
    """Nats a target over packed rows, which are what the bootstrap draws."""
    run = run_of(subject, candidate, 1.0, 0, ())
    model = ParallelModel.alone(load_any(folder))
    objective = choose(run, Tokenizer.load(subject.folder / TOKENIZER))
    losses, counts = [], []
    for batch in rows.open_validation(run, subject.folder / SHARDS).sequential(1):
        count = objective.count(batch)
        if count:
            dtype = model.module.embedding.weight.dtype
            losses.append(model.evaluate(objective, batch, dtype))
            counts.append(count)
        if len(counts) * subject.length >= subject.most_tokens:
            break
    return ratio(np.array(losses, np.float64), np.array(counts, np.float64))


def _labelling(subject: Subject, model: ReadingModel, answer: Callable[[str], object]) -> float:
    return median_milliseconds(answer, _askable(subject, model.tokenizer))


def _askable(subject: Subject, tokenizer: Tokenizer) -> list[str]:
    """Validation texts that fit into a row however they are encoded again, drawn evenly from the split."""
    reader = subject.valid.reader
    found: list[str] = []
    for index in np.unique(np.linspace(0, len(reader) - 1, 2 * TIMED).astype(int)).tolist():
        ids = _body(reader.document(index)[: subject.length].tolist(), tokenizer)
        text = tokenizer.decode(ids, skip_special=True)
        if text.strip() and len(tokenizer.encode(text)) + len(start_ids(tokenizer)) <= subject.length:
            found.append(text)
    return found[:TIMED]


def _writing(subject: Subject, model: Any) -> tuple[float, float]:
    """Milliseconds a text, and how much of the targets' terms is in what is written."""
    pairs = _pairs(subject, model.tokenizer, TIMED)
    answers: dict[str, str] = {}
    limit = 50 if model.card.task == "summary" else None

    def write(source: str) -> None:
        answers[source] = str(model.written([source], limit, 4, 1)[0])

    milliseconds = median_milliseconds(write, [source for source, _ in pairs])
    done = [(answers[source], target) for source, target in pairs if source in answers]
    return milliseconds, _term_f1(done)


def _continuing(subject: Subject, model: Any) -> float:
    reader = subject.valid.reader
    chosen = np.unique(np.linspace(0, len(reader) - 1, TIMED).astype(int)).tolist()
    texts = [model.tokenizer.decode(reader.document(index)[:PROMPT].tolist()) for index in chosen]
    kept = [text for text in texts if text.strip()]
    count = max(1, min(WRITTEN, subject.length - PROMPT - 8))
    return median_milliseconds(lambda text: model.complete(text, max_new_tokens=count, temperature=0.0), kept)


def _naive_bayes(subject: Subject) -> Measured:
    tokenizer = Tokenizer.load(subject.folder / TOKENIZER)

    def read(reader: ShardReader, most_tokens: int | None) -> tuple[list[str], list[str]]:
        documents, labels = _labelled(reader, subject.length, most_tokens)
        texts = [tokenizer.decode(_body(ids, tokenizer), skip_special=True) for ids in documents]
        return texts, [str(own[0]) for own in labels]

    learnt, classes = read(_training(subject), None)
    model = NaiveBayes(learnt, classes)
    weights = len(model.labels) * len({term for text in learnt for term in terms(text)})
    texts, gold = read(subject.valid.reader, subject.most_tokens)
    right = sum(model.predict(text) == label for text, label in zip(texts, gold, strict=True))
    milliseconds = median_milliseconds(model.predict, texts[:TIMED])
    return Measured(wilson(right, len(gold)), milliseconds, 8 * weights, weights)


def _memory(subject: Subject) -> Measured:
    """The forms of training, by longest match in tokens, each of which stands as a character."""
    labels = (manifest.read(subject.folder / SHARDS) or {})["figures"]["labels"]
    documents, classes = _labelled(_training(subject), subject.length, None)
    learnt, entities = [_spelled(ids) for ids in documents], [_spans(own, labels) for own in classes]
    model = EntityMemory(learnt, entities)
    forms = {
        text[start:stop] for text, spans in zip(learnt, entities, strict=True) for start, stop, _ in spans
    }
    documents, classes = _labelled(subject.valid.reader, subject.length, subject.most_tokens)
    texts = [_spelled(ids) for ids in documents]
    quality = _f1([_spans(own, labels) for own in classes], [model.find(text) for text in texts])
    size = sum(4 * len(form) for form in forms)
    return Measured(quality, median_milliseconds(model.find, texts[:TIMED]), size, len(forms))


def _copying(subject: Subject) -> Measured:
    pairs = _pairs(subject, Tokenizer.load(subject.folder / TOKENIZER), TIMED)
    return Measured(None, 0.0, 0, 0, _term_f1(pairs))


def _training(subject: Subject) -> ShardReader:
    return open_split(subject.folder / SHARDS, "train", verify=False).reader


def _labelled(
    reader: ShardReader, length: int, most_tokens: int | None
) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and labels of documents, cut to ``length``, drawn evenly: about ``most_tokens``."""
    stored = np.memmap(reader.prefix.with_name(f"{reader.prefix.name}.{LABELS}"), np.int32, mode="r")
    usual = float(np.minimum(reader.lengths, length).mean())
    count = len(reader) if most_tokens is None else min(max(1, int(most_tokens / usual)), len(reader))
    documents, labels = [], []
    for index in np.unique(np.linspace(0, len(reader) - 1, count).astype(int)).tolist():
        start, size = int(reader.starts[index]), min(int(reader.lengths[index]), length)
        documents.append(reader.tokens[start : start + size].tolist())
        labels.append(stored[start : start + size].tolist())
    return documents, labels


def _spans(classes: Sequence[int], labels: Sequence[str]) -> list[Span]:
    named = [labels[number] if number >= 0 else "O" for number in classes]
    return spans_of(named, [(place, place + 1) for place in range(len(named))])


def _spelled(ids: Sequence[int]) -> str:
    return "".join(chr(_PLANE + token) for token in ids)


def _body(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """A labelled document without what stands before its text and an end of text behind it."""
    start = start_ids(tokenizer)
    ids = ids[len(start) :] if ids[: len(start)] == start else ids
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_id else ids


def _pairs(subject: Subject, tokenizer: Tokenizer, most: int) -> list[tuple[str, str]]:
    """Sources and targets of validation pairs that fit into a row."""
    reader = subject.valid.reader
    answers = Answers.read(reader.prefix)
    found = []
    for index in np.unique(np.linspace(0, len(reader) - 1, 4 * most).astype(int)).tolist():
        ids, start = reader.document(index).tolist(), int(answers.start[index])
        source, target = ids[: start - 1], ids[start : int(answers.stop[index]) - 1]
        if max(len(source), len(target)) < subject.length - 1:
            found.append((tokenizer.decode(source), tokenizer.decode(target)))
    return [pair for pair in found if pair[0].strip()][:most]


def _term_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """2 x common terms / all terms, over all (found, gold) texts; a term counts as often as it stands."""
    common = total = 0
    for found, gold in pairs:
        left, right = Counter(terms(found)), Counter(terms(gold))
        common += (left & right).total()
        total += left.total() + right.total()
    return 2 * common / max(total, 1)

"""Which number format each matrix of a model gets, by what its products take on this machine.

Fewer bits need less of the memory's bandwidth, which is what one row waits for, and more arithmetic to widen
or scale them, which many rows wait for: what is faster depends on the shape, the processor and the threads.
Measured is the product of each distinct shape, alone and for a batch of rows; the figures are kept on disk.
A matrix has one format for every number of rows, so that a row's result does not depend on its neighbours.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from weft.core.errors import ResourceError
from weft.core.files import write_bytes_atomic
from weft.core.hardware import probe
from weft.core.version import __version__
from weft.ops.kernels import decoder
from weft.ops.packed import Format, pack, stand_in
from weft.ops.step import Heads, PackedFeed, PackedLayer, Steps

Shape = tuple[int, int]
"""Outputs and inputs of a matrix."""
Figures = dict[Format, dict[int, float]]
"""Seconds of a product by format and number of rows."""
Measure = Callable[[Shape, int, Sequence[Format], float], Figures]
"""``(shape, matrices, formats, seconds)``: what is timed; a model has so many ``matrices`` of the shape, and
it may take about so many ``seconds`` in all."""

ROWS = {1: 1.0, 16: 1.0}
"""Rows of the products that are timed, and what the time of each weighs: one answer alone, and a batch."""
SECONDS = 1.0
"""All measurements of a load take about that long."""

_LARGEST = 2**22
"""Numbers of a matrix that is timed; of a larger one a part, since products take time in proportion."""
_TOGETHER = 2**25
"""Numbers of all matrices that take turns: more than caches hold, as in a model."""
_LEAST_TURNS, _MOST_TURNS = 5, 100
"""The first brings code and buffers into place; after the last a shorter time is no longer likely."""
_log = logging.getLogger("weft.engine")


@dataclass(frozen=True)
class Choice:
    """The format of all matrices of a shape, and the figures that it was chosen by."""

    shape: Shape
    form: Format
    figures: Figures

    def __str__(self) -> str:
        timed = ", ".join(
            f"{form.name.lower()} " + " and ".join(f"{seconds * 1e6:,.0f}" for seconds in by_rows.values())
            for form, by_rows in self.figures.items()
        )
        rows = " and ".join(map(str, ROWS))
        return f"{self.shape[0]} x {self.shape[1]}: {self.form.name.lower()} (µs for {rows} rows: {timed})"


def choose(
    shapes: Mapping[Shape, int],
    forms: Sequence[Format],
    measure: Measure | None = None,
    file: Path | None = None,
) -> dict[Shape, Choice]:
    """A format of ``forms`` for each shape, of which the model has so many matrices.

    The first format is the one that needs a reason to be left: another is taken only if it is as fast for
    every number of rows, and then the one with the least weighted time. ``file`` keeps the figures (None:
    measure anew); what is damaged in it, or cannot be written, is as if it were not there.
    """
    known = {} if file is None else _read(file)
    fresh: dict[str, Figures] = {}
    found: dict[Shape, Choice] = {}
    missing = [shape for shape, count in shapes.items() if not _covers(known.get(_name(shape, count)), forms)]
    for shape, count in shapes.items():
        name = _name(shape, count)
        if shape in missing:
            known[name] = fresh[name] = (measure or time_products)(
                shape, count, forms, SECONDS / len(missing)
            )
        figures = {form: known[name][form] for form in forms}
        found[shape] = Choice(shape, fastest(figures, forms), figures)
        _log.info("Weights %s", found[shape])
    if file is not None and fresh:
        _write(file, fresh)
    return found


def fastest(figures: Figures, forms: Sequence[Format]) -> Format:
    """As :func:`choose` says."""
    base = figures[forms[0]]
    able = [form for form in forms if all(figures[form][rows] <= base[rows] for rows in ROWS)]
    return min(able, key=lambda form: sum(weight * figures[form][rows] for rows, weight in ROWS.items()))


def figures_file() -> Path:
    """Where the figures of this machine and number of threads are kept: in the user's cache folder."""
    machine = probe()
    library = decoder()  # its file is named by what it was built from
    facts = (
        *(__version__, None if library is None else Path(library._name).stem),
        *(machine.processor, machine.cores, machine.instruction_sets, torch.get_num_threads()),
    )
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "weft" / "formats" / f"{key}.json"


def time_products(shape: Shape, matrices: int, forms: Sequence[Format], seconds: float) -> Figures:
    """The shortest time of a product of each format and number of rows, in about ``seconds``.

    Formats take turns, so that a busy moment of the machine meets all of them; interruptions only ever
    lengthen a product, so the shortest is believed. So do matrices, or they would come from the caches.
    """
    ends = time.perf_counter() + seconds
    outputs, inputs = shape
    part = max(1, min(outputs, _LARGEST // inputs))
    turns = max(1, min(matrices, _TOGETHER // (part * inputs)))
    steps = _lender(inputs)
    weights = {form: [stand_in(part, inputs, form) for _ in range(turns)] for form in forms}
    x = {rows: torch.linspace(-1, 1, rows * inputs).view(rows, inputs) for rows in ROWS}
    best = {form: dict.fromkeys(ROWS, math.inf) for form in forms}
    for turn in range(_MOST_TURNS):
        for rows, form in itertools.product(ROWS, forms):
            begun = time.perf_counter()
            steps.product(weights[form][turn % turns], x[rows])
            best[form][rows] = min(best[form][rows], time.perf_counter() - begun)
        if turn >= _LEAST_TURNS and time.perf_counter() > ends:
            break
    return {form: {rows: best[form][rows] * outputs / part for rows in ROWS} for form in forms}


def _lender(width: int) -> Steps:
    """A decoder that lends its buffers to products of up to ``width`` inputs."""
    square = pack([torch.zeros(64, width)], Format.FLOAT32)
    layer = PackedLayer(square, square, PackedFeed(square, square), torch.ones(width), torch.ones(width))
    return Steps([layer], torch.ones(width), square, Heads(2, 2, 32), 1e-6, torch.float32)


def _name(shape: Shape, count: int) -> str:
    """Of the same shape few matrices may lie in caches where many do not."""
    return f"{shape[0]}x{shape[1]}x{count}"


def _covers(figures: Figures | None, forms: Sequence[Format]) -> bool:
    return figures is not None and set(forms) <= set(figures)


def _read(file: Path) -> dict[str, Figures]:
    """What of ``file`` is whole."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(name): {
                Format[form]: {rows: _seconds(by_rows[str(rows)]) for rows in ROWS}
                for form, by_rows in figures.items()
            }
            for name, figures in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _seconds(value: object) -> float:
    if not isinstance(value, float) or not 0 < value < math.inf:
        raise ValueError("not a time")
    return value


def _write(file: Path, fresh: Mapping[str, Figures]) -> None:
    """Add ``fresh`` to what is there now; another process may have added other shapes meanwhile."""
    merged = _read(file)
    for name, figures in fresh.items():
        merged[name] = {**merged.get(name, {}), **figures}
    plain = {
        name: {form.name: by_rows for form, by_rows in figures.items()} for name, figures in merged.items()
    }
    try:
        write_bytes_atomic(file, json.dumps(plain, indent=1, sort_keys=True).encode())
    except (OSError, ResourceError) as error:
        _log.info("The figures of number formats are not kept: %s", error)

"""CLUENER2020: named entities of Chinese, a JSON object a line (Xu et al. 2020, arXiv:2001.04351).

``{"text", "label": {type: {surface: [[start, last], ...]}}}``: characters, and the last one belongs to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from weft.data.examples import Record
from weft.data.labelled.opened import Files, flaw, lines, paths, spelled


def read(files: Files) -> Iterator[Record]:
    """``{"text", "spans": [{"start", "end", "label"}]}`` of each line, end exclusive, in order of the text.

    A record without ``label``, as in the test set, has the reason ``no_labels``; one with a span that is not
    at its place ``bad_span``.
    """
    for file in paths(files):
        for where, line, broken in lines(file):
            if broken is not None:
                yield where, None, "invalid_encoding", broken
            elif line.strip():
                yield _parsed(where, line)


def _parsed(where: str, line: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return where, None, "bad_json", str(error)[:200]
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return where, None, "no_text", line[:200]
    text, labels = record["text"], record.get("label")
    if flaw(text) is not None or (isinstance(labels, dict) and flaw("".join(labels)) is not None):
        return where, None, "invalid_encoding", "lone surrogate"
    if labels is None:
        return where, None, "no_labels", None
    spans: list[dict[str, Any]] = []
    for label, surface, place in _places(labels):
        if not _stands(text, surface, place):
            return where, None, "bad_span", spelled(f"{label}: {surface} {place}")
        spans.append({"start": place[0], "end": place[1] + 1, "label": label})
    spans.sort(key=lambda span: (span["start"], span["end"], span["label"]))
    return where, {"text": text, "spans": spans}, None, None


def _places(labels: Any) -> Iterator[tuple[str, str, Any]]:
    """(label, surface, [start, last]) of each span; what has another form comes as a place that is none."""
    if not isinstance(labels, dict):
        yield "label", "", labels
        return
    for label, surfaces in labels.items():
        if not isinstance(surfaces, dict):
            yield label, "", surfaces
            continue
        for surface, places in surfaces.items():
            for place in places if isinstance(places, list) and places else [places]:
                yield label, surface, place


def _stands(text: str, surface: str, place: Any) -> bool:
    if not isinstance(place, list) or len(place) != 2 or any(type(edge) is not int for edge in place):
        return False
    start, last = place
    return 0 <= start <= last < len(text) and text[start : last + 1] == surface

"""A label and a text a line: SST, MR, Subj, CR, MPQA and TREC as Kim 2014 (arXiv:1408.5882) has them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from weft.data.examples import Record
from weft.data.labelled import opened

_SPACE = re.compile(r"[ \t]+")


def read(files: opened.Files, *, encoding: str = "utf-8", coarse: bool = False) -> Iterator[Record]:
    """``{"label", "text"}`` of each line that is not blank: ``1 a fine film .``.

    ``encoding``: of the files, say ``latin-1``. ``coarse``: of a label ``DESC:manner`` only ``DESC`` is kept.
    """
    for file in opened.paths(files):
        for where, line, flaw in opened.lines(file, encoding):
            bare = line.strip(" \t")
            if flaw is not None:
                yield where, None, "invalid_encoding", flaw
            elif bare:
                label, *text = _SPACE.split(bare, maxsplit=1)
                label = label.partition(":")[0] if coarse else label
                if not label or not text:
                    yield where, None, "no_text" if label else "no_label", bare[:200]
                else:
                    yield where, {"label": label, "text": text[0]}, None, None

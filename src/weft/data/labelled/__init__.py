"""The common formats of labelled data as plain records, one file a format.

Every record comes with where it was; what is broken comes with the reason instead, and the rest goes on. A
reader raises DataError, at the first record, for a file that cannot be read at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from weft.core.errors import UsageError
from weft.core.registry import lookup
from weft.data.examples import Record
from weft.data.labelled import bio, cluener, lines, parallel, roles, squad, table
from weft.data.labelled.opened import Files

READERS: dict[str, Callable[..., Iterator[Record]]] = {
    "bio": bio.read,
    "cluener": cluener.read,
    "roles": roles.read,
    "squad": squad.read,
    "lines": lines.read,
    "parallel": parallel.read,
    "csv": table.read_csv,
    "tsv": table.read_tsv,
}


def read(name: str, files: Files, **options: Any) -> Iterator[Record]:
    """The records of ``files`` in the format ``name``; ``options`` are those of its reader.

    Raises UsageError, which suggests the nearest one, for a format or an option that there is not.
    """
    reader = lookup(READERS, name, "format of labelled data")
    known = {key: key for key in list(inspect.signature(reader).parameters)[1:]}
    if options and not known:
        raise UsageError(f"The format {name} has no options, so {', '.join(sorted(options))} cannot be set.")
    for option in options:
        lookup(known, option, f"option of the format {name}")
    return reader(files, **options)

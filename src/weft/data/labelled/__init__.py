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
_SWITCH = {"": True, "true": True, "false": False}


def read(name: str, files: Files, **options: Any) -> Iterator[Record]:
    """The records of ``files`` in the format ``name``; ``options`` are those of its reader.

    A switch may be a word, ``"true"`` or ``"false"``, and its name alone (``""``) sets it. Raises UsageError,
    which suggests the nearest one, for a format or an option that there is not.
    """
    reader = lookup(READERS, name, "format of labelled data")
    known = {key: found.default for key, found in list(inspect.signature(reader).parameters.items())[1:]}
    if options and not known:
        raise UsageError(f"The format {name} has no options, so {', '.join(sorted(options))} cannot be set.")
    fitting = {
        key: _fitting(key, value, lookup(known, key, f"option of the format {name}"))
        for key, value in options.items()
    }
    return reader(files, **fitting)


def _fitting(option: str, value: Any, default: Any) -> Any:
    """``value`` as a reader takes it, whose kind is that of the ``default``."""
    if isinstance(default, bool) and isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    if not isinstance(value, type(default)):
        wanted = "true or false" if isinstance(default, bool) else "a word"
        raise UsageError(f"The option {option} is {wanted}, not {value!r}.")
    return value

"""Functions that run through torch.compile where that works, and as they are where it does not."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("weft.ops")
_plainly: list[None] = []

_FORMS = 128
"""Forms of one function that PyTorch keeps; its own 8 are fewer than the batch sizes of an engine."""


def wanted() -> bool:
    """Whether functions are to be compiled: unless ``WEFT_COMPILE`` is ``off``, or within :func:`plainly`."""
    return not _plainly and os.environ.get("WEFT_COMPILE", "on").lower() not in ("off", "0")


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Within it every :class:`Compiled` is called as it is, for comparison."""
    _plainly.append(None)
    try:
        yield
    finally:
        _plainly.pop()


def compiled(function: Callable[P, R], *, dynamic: bool) -> Callable[P, R]:
    """``function`` through torch.compile; ``dynamic``: one form for all sizes, else one for each.

    It is compiled when first called, and raises then what the compiler raises. Raises the number of forms
    that PyTorch keeps of a function, for the whole process.
    """
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _FORMS)
    return torch.compile(function, dynamic=dynamic, fullgraph=True)


class Compiled(Generic[P, R]):
    """A function that is compiled when first called; where that fails once, it is called as it is from then
    on, and one warning says so. ``WEFT_COMPILE=off`` leaves the function itself, ``plain``.
    """

    def __init__(self, function: Callable[P, R], *, dynamic: bool):
        self.plain = function
        self._dynamic = dynamic
        self._fast: Callable[P, R] | None = None
        self._failed = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """As the function."""
        if self._failed or not wanted():
            return self.plain(*args, **kwargs)
        if self._fast is None:
            self._fast = compiled(self.plain, dynamic=self._dynamic)
        try:
            return self._fast(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as failure:
            self._failed = True
            name = getattr(self.plain, "__qualname__", "a function")
            text = "torch.compile does not take %s here (%s); it runs as it is, slower."
            _log.warning(text, name, said(failure))
            return self.plain(*args, **kwargs)


def said(failure: Exception) -> str:
    """The beginning of what a compiler says, which may be pages long; its first line only names it."""
    lines = [line.strip(" :") for line in str(failure).splitlines() if line.strip()]
    return ": ".join([type(failure).__name__, *lines[:2]])[:300]

"""The tree of errors: one root, and the exit codes that the command line promises."""

from __future__ import annotations

import inspect
import re

import pytest

from weft.core import errors


def classes() -> dict[str, type[errors.WeftError]]:
    return {n: c for n, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.WeftError)}


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn = re.findall(r"(\w+)\s+(\d+)  ", errors.__doc__ or "")
    assert {name: int(code) for name, code in drawn} == {n: c.exit_code for n, c in classes().items()}


@pytest.mark.parametrize("name", sorted(classes()))
def test_every_error_has_a_known_exit_code(name: str) -> None:
    assert classes()[name]("one sentence.").exit_code in (1, 2, 130)
    assert (classes()[name].__doc__ or "").strip()

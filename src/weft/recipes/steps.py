"""Recipes: run files that name data, and the commands that turn it into a model and its figures.

A recipe is TOML: ``title`` (en and zh), ``needs`` (a name for each file, and where it usually lies below
``--data``), and ``steps``, each the words of one ``weft`` command, in which ``{name}`` is a needed file and
``{out}`` the folder of the results. With ``after``, the name of another recipe, the files and steps of that
one come first. Every step does nothing when it is done, so a recipe that was interrupted
goes on where it was.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from weft.core.errors import ConfigError, DataError, Interrupted, WeftError
from weft.core.registry import lookup

QUICK_STEPS = 4
"""Training steps of a recipe that is only tried."""

_NAME = re.compile(r"\{([a-z_]+)\}")
_LENGTHS = ("train.epochs=", "train.budget=", "train.steps=")
_FORMAT = "title, needs and steps"


@dataclass(frozen=True)
class Recipe:
    """``needs``: file by name; ``steps``: words of commands, those of the recipe ``after`` which it comes
    first; ``serves``: words of the command that serves what came of it."""

    name: str
    title: Mapping[str, str]
    needs: Mapping[str, str]
    steps: Sequence[Sequence[str]]
    serves: Sequence[str] = field(default_factory=tuple)
    after: str | None = None

    def files(self, data: Path | None, given: Mapping[str, Path]) -> dict[str, Path]:
        """The needed files: those ``given`` by name, the others below ``data``.

        ConfigError for a name that the recipe does not know, DataError for files that are not there.
        """
        for name in given:
            lookup(self.needs, name, f"file of the recipe {self.name}")
        found = dict(given)
        for name, usual in self.needs.items():
            if name not in found:
                if data is None or not usual:
                    raise DataError(
                        f"The recipe {self.name} needs a file {name}; give --set {name}=FILE"
                        + (f", or --data with the folder that holds {usual}." if usual else ".")
                    )
                found[name] = data / usual
        missing = [f"{name} ({file})" for name, file in found.items() if not file.exists()]
        if missing:
            raise DataError(f"There is no {', no '.join(missing)}; check --data, or give --set NAME=FILE.")
        return found


def names() -> list[str]:
    """The recipes that come with Weft."""
    folder = resources.files("weft.recipes") / "tasks"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load(name: str) -> Recipe:
    """A recipe by its name, or from a file that ends in .toml. ConfigError when it cannot be read."""
    if name.endswith(".toml"):
        try:
            return parse(Path(name).stem, Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The recipe {name} cannot be read: {error}.") from error
    lookup(dict.fromkeys(names()), name, "recipe")
    return parse(
        name, (resources.files("weft.recipes") / "tasks" / f"{name}.toml").read_text(encoding="utf-8")
    )


def parse(name: str, text: str) -> Recipe:
    """A recipe from its TOML. ConfigError for what is none, or names files that it does not need."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The recipe {name} is no TOML: {error}.") from error
    title, needs, steps = (table.get(key) for key in ("title", "needs", "steps"))
    if not isinstance(title, dict) or not isinstance(needs, dict) or not isinstance(steps, list) or not steps:
        raise ConfigError(f"The recipe {name} lacks {_FORMAT}; see one that comes with Weft.")
    serves = table.get("serves", [])
    before = load(table["after"]) if "after" in table else None
    if before is not None:
        needs, steps = {**before.needs, **needs}, [*before.steps, *steps]
    for words in [*steps, serves]:
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ConfigError(f"A step of the recipe {name} is not a list of words: {words!r}.")
        for used in {found for word in words for found in _NAME.findall(word)} - {"out"}:
            lookup(needs, used, f"file of the recipe {name}")
    return Recipe(name, title, needs, steps, serves, table.get("after"))


def run(
    recipe: Recipe,
    files: Mapping[str, Path],
    out: Path,
    *,
    quick: bool = False,
    say: Callable[[str], None] = print,
    serve: bool = False,
) -> None:
    """Run every step in a process of its own, each command said first.

    ``quick`` trains for a few steps only, to see that all fits together. Raises Interrupted, and WeftError
    when a step fails; its own words have said why.
    """
    out.mkdir(parents=True, exist_ok=True)
    for words in [*recipe.steps, *([recipe.serves] if serve and recipe.serves else [])]:
        filled = [_filled(word, files, out) for word in words]
        filled = shortened(filled) if quick else filled
        say("$ weft " + " ".join(_quoted(word) for word in filled))
        code = subprocess.run([sys.executable, "-m", "weft", *filled], check=False).returncode
        if code == Interrupted.exit_code:
            raise Interrupted("Interrupted; run the same command again to continue.")
        if code:
            raise WeftError(f"The step weft {words[0]} of the recipe {recipe.name} ended with code {code}.")


def shortened(words: Sequence[str]) -> list[str]:
    """The words of a training command with a few steps in place of its length; others as they are, but that
    a network of so few steps is sure of nothing: all the labels that it gives are taken."""
    if words[0] != "train":
        first = ("0" if before == "--least-score" else word for before, word in pairwise(["", *words]))
        return list(first)
    kept = [word for word in words if not word.startswith((*_LENGTHS, "train.validate_steps="))]
    return [*kept, f"train.steps={QUICK_STEPS}", f"train.validate_steps={QUICK_STEPS}"]


def _filled(word: str, files: Mapping[str, Path], out: Path) -> str:
    return _NAME.sub(lambda found: str(out if found[1] == "out" else files[found[1]]), word)


def _quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[\s|&;<>()$`\\\"*?]", word) else word

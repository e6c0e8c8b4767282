"""Run files: TOML to frozen dataclasses and back, strict in both directions.

A schema is a frozen dataclass whose fields are scalars, tuples of scalars, optional scalars or
further dataclasses (one TOML table each). Unknown keys and wrong types are errors that name the key,
the file and the nearest right key.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from weft.core.errors import ConfigError
from weft.core.files import write_text_atomic
from weft.core.registry import nearest

C = TypeVar("C")


def load(schema: type[C], file: Path | None, overrides: Sequence[str] = ()) -> C:
    """Read ``file`` (or only defaults when None), apply ``section.key=value`` overrides, check all.

    Raises ConfigError for a missing or malformed file, an unknown key, or a value of the wrong type.
    """
    table: dict[str, Any] = {}
    if file is not None:
        table = _read(file)
    for text in overrides:
        _override(schema, table, text)
    return build(schema, table, where=str(file) if file else "the command line")


def build(schema: type[C], table: Mapping[str, Any], where: str, prefix: str = "") -> C:
    """Make a ``schema`` from a parsed table; ``where`` names the source in errors."""
    hints = typing.get_type_hints(schema)
    names = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            raise ConfigError(_unknown(prefix + key, [prefix + n for n in names], where))
        values[key] = _convert(hints[key], value, prefix + key, where)
    try:
        return schema(**values)
    except TypeError as error:
        missing = [
            prefix + f.name
            for f in dataclasses.fields(schema)  # type: ignore[arg-type]
            if f.name not in values and f.default is f.default_factory is dataclasses.MISSING
        ]
        raise ConfigError(f"{where} lacks {', '.join(missing) or error}; add it to the run file.") from error


def dump(config: object) -> str:
    """The TOML text of a configuration; None values are left out (they are the default)."""
    lines: list[str] = []
    _dump_table(config, "", lines)
    return "\n".join(lines).strip() + "\n"


def save(config: object, file: Path) -> None:
    """Write the resolved configuration beside the run."""
    write_text_atomic(file, dump(config))


def duration(text: str) -> float:
    """Seconds in ``"90s"``, ``"5m"``, ``"1.5h"`` or a bare number of seconds; ConfigError otherwise."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    raw = text.strip().lower()
    factor = units.get(raw[-1:], 1.0)
    number = raw[:-1] if raw[-1:] in units else raw
    try:
        seconds = float(number) * factor
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{text!r} is not a duration; write for instance 90s, 5m or 1.5h.")
    return seconds


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no run file {file}; check the path.") from None
    except IsADirectoryError:
        raise ConfigError(f"{file} is a folder; give the path of a TOML run file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text; run files are TOML in UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{file} is not valid TOML: its values are nested too deeply.") from None


def _override(schema: type[Any], table: dict[str, Any], text: str) -> None:
    key, sign, raw = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"{text!r} is not an override; write section.key=value.")
    parts = key.strip().split(".")
    here = table
    current: Any = schema
    for depth, part in enumerate(parts):
        names = [f.name for f in dataclasses.fields(current)] if dataclasses.is_dataclass(current) else []
        prefix = ".".join(parts[:depth]) + ("." if depth else "")
        if part not in names:
            raise ConfigError(_unknown(prefix + part, [prefix + n for n in names], "the command line"))
        if depth < len(parts) - 1:
            current = typing.get_type_hints(current)[part]
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise ConfigError(
                    f"{prefix + part} = {here!r} must be a table of keys, so {key} cannot be set."
                )
    here[parts[-1]] = _parse_value(raw)


def _parse_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return raw


def _convert(hint: Any, value: Any, key: str, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            first = dataclasses.fields(hint)[0].name
            raise ConfigError(
                f"{key} in {where} is a table of keys, not {value!r}; write for instance {key}.{first}=..."
            )
        return build(typing.cast(Any, hint), value, where, prefix=key + ".")
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [a for a in args if a is not type(None)]
        return None if value is None else _convert(inner[0], value, key, where)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(_unknown_value(key, value, [str(a) for a in args], where))
        return value
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(args[0], item, key, where) for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and not isinstance(value, (dict, list)):
        return str(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key} = {value!r} in {where} must be {_spell(hint)}.")
    return value


def _spell(hint: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


def _unknown(key: str, names: list[str], where: str) -> str:
    guess = nearest(key, names)
    hint = f"did you mean {guess}?" if guess else f"known keys are {', '.join(names) or 'none'}."
    return f"{key} in {where} is not a known key; {hint}"


def _unknown_value(key: str, value: object, names: list[str], where: str) -> str:
    guess = nearest(str(value), names)
    hint = f"did you mean {guess!r}?" if guess else f"choose one of: {', '.join(names)}."
    return f"{key} = {value!r} in {where} is not a choice; {hint}"


def _dump_table(config: object, name: str, lines: list[str]) -> None:
    assert dataclasses.is_dataclass(config)
    fields = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]
    plain = [(k, v) for k, v in fields if not dataclasses.is_dataclass(v) and v is not None]
    if name and plain:
        lines.append(f"\n[{name}]")
    lines.extend(f"{key} = {spell(value)}" for key, value in plain)
    for key, value in fields:
        if dataclasses.is_dataclass(value):
            _dump_table(value, f"{name}.{key}" if name else key, lines)


def spell(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(spell(item) for item in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    escaped = "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in text)
    return f'"{escaped}"'

"""``weft key``: who may use a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli.command import Record, say, weft_command

if TYPE_CHECKING:
    from weft.server.keys import Key, Keys

_STORE = click.option(
    "--store", required=True, help="File or postgresql:// address that `weft serve --store` uses."
)


@click.group("key")
def command() -> None:
    """Make, list and revoke the API keys of a server."""


@weft_command("add")
@click.argument("name")
@_STORE
@click.option("--scope", default="use", show_default=True, help="use, or admin (metrics, usage, loading).")
@click.option("--requests-per-minute", type=int, help="Requests it may send a minute.")
@click.option("--tokens-per-day", type=int, help="Tokens of prompts and answers it may use a day (UTC).")
def add(
    name: str, store: str, scope: str, requests_per_minute: int | None, tokens_per_day: int | None
) -> Record:
    """Make a key called NAME and print it, this once: only its hash is kept."""
    key, text = _with(
        store, lambda keys: keys.add(name, scope, requests_per_minute, tokens_per_day), "key_added"
    )
    say(text)
    return {"id": key.id, "name": key.name, "scope": key.scope}


@weft_command("list")
@_STORE
def show(store: str) -> Record:
    """Show the keys, without their secrets."""
    keys: list[Key] = _with(store, lambda keys: keys.all(), new=False)
    for key in keys:
        bounds = [f"{key.requests_per_minute} requests/min"] if key.requests_per_minute else []
        bounds += [f"{key.tokens_per_day} tokens/day"] if key.tokens_per_day else []
        state = f"revoked {_day(key.revoked)}" if key.revoked else f"made {_day(key.created)}"
        say(f"{key.id}  {key.scope:<6} {key.name:<20} {state}  {', '.join(bounds)}".rstrip())
    names = ("id", "name", "scope", "requests_per_minute", "tokens_per_day", "created", "revoked")
    return {"keys": [{name: getattr(key, name) for name in names} for key in keys]}


@weft_command("revoke")
@click.argument("key")
@_STORE
def revoke(key: str, store: str) -> Record:
    """Make KEY (an id or a name) useless; running servers see it within seconds."""
    gone: Key = _with(store, lambda keys: keys.revoke(key), "key_revoked", new=False)
    say(f"{gone.name} ({gone.id}) is revoked.")
    return {"id": gone.id, "name": gone.name}


def _with(place: str, work: Callable[[Keys], Any], event: str | None = None, *, new: bool = True) -> Any:
    from weft.core.errors import UsageError
    from weft.server.keys import Keys
    from weft.server.ledger import Ledger
    from weft.server.store import Store, in_file

    if not new and in_file(place) and not Path(place).is_file():
        raise UsageError(f"There is no store {place}; `weft key add` makes one.")
    store = Store(place)
    try:
        done = work(Keys(store))
        if event is not None:
            ledger = Ledger(store)
            key = done[0] if isinstance(done, tuple) else done
            ledger.event(key.id, event, key.name)
            ledger.close()
        return done
    finally:
        store.close()


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


command.add_command(add)
command.add_command(show)
command.add_command(revoke)

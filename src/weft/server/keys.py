"""API keys: made, listed, revoked, and recognised.

A key is ``weft-ID-SECRET``: the id finds its row, the secret (256 random bits) proves it. Only a keyed hash
of the secret is stored, with a salt of its own as the key (BLAKE2b): a secret that cannot be guessed needs
no slow hash, and a slow one would let strangers occupy the server by sending wrong keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Literal

from weft.core.errors import UsageError
from weft.core.registry import nearest
from weft.server.store import Store

Scope = Literal["use", "admin"]
SCOPES: tuple[Scope, ...] = ("use", "admin")
_FORM = re.compile(r"weft-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")
_COLUMNS = "id, name, salt, digest, scope, requests_per_minute, tokens_per_day, created, revoked"


@dataclass(frozen=True)
class Key:
    """What is known of a key: never its secret. None is no bound; times are seconds since 1970."""

    id: str
    name: str
    salt: str
    digest: str
    scope: Scope
    requests_per_minute: int | None
    tokens_per_day: int | None
    created: float
    revoked: float | None


class Keys:
    """The keys of a store, in memory; :meth:`reload` sees what others added or revoked."""

    def __init__(self, store: Store):
        self._store = store
        self._known: dict[str, Key] = {}
        self._seen = False
        self._decoy = secrets.token_hex(16)
        self.reload()

    def reload(self) -> None:
        """Read them again."""
        rows = self._store.read(f"SELECT {_COLUMNS} FROM keys")
        self._known = {row[0]: Key(*row) for row in rows}
        self._seen |= bool(rows)

    @property
    def any(self) -> bool:
        """Whether there are keys or were any, revoked ones too: neither the last revoked key nor a table that
        was emptied opens the server."""
        return self._seen

    def all(self) -> list[Key]:
        """Every key, the oldest first."""
        return sorted(self._known.values(), key=lambda key: key.created)

    def recognise(self, presented: str) -> Key | None:
        """The valid key that ``presented`` is, or None, in a time that does not tell what was wrong."""
        form = _FORM.fullmatch(presented)
        key = self._known.get(form.group(1)) if form else None
        digest = _digest(form.group(2) if form else "", key.salt if key else self._decoy)
        right = hmac.compare_digest(digest, key.digest if key else "0" * len(digest))
        return key if right and key is not None and key.revoked is None else None

    def add(
        self,
        name: str,
        scope: str = "use",
        requests_per_minute: int | None = None,
        tokens_per_day: int | None = None,
    ) -> tuple[Key, str]:
        """A new key and its text, which is shown this once. Raises UsageError for a wrong name, scope or
        bound."""
        if not name.strip() or not name.isprintable():
            raise UsageError(f"The name {name!r} of a key must be a line of text that can be shown.")
        if scope not in SCOPES:
            guess = nearest(scope, SCOPES)
            hint = f"did you mean {guess}?" if guess else f"write one of: {', '.join(SCOPES)}."
            raise UsageError(f"scope = {scope!r} is not a choice; {hint}")
        for bound in (requests_per_minute, tokens_per_day):
            if bound is not None and bound < 1:
                raise UsageError(
                    f"A bound of {bound} lets nothing through; give at least 1, or revoke the key."
                )
            if bound is not None and bound >= 2**63:
                raise UsageError(f"A bound of {bound} cannot be stored; leave it out for none.")
        secret, salt = secrets.token_urlsafe(32), secrets.token_hex(16)
        key = Key(
            secrets.token_hex(6),
            name,
            salt,
            _digest(secret, salt),
            scope,
            requests_per_minute,
            tokens_per_day,
            time.time(),
            None,
        )
        row = tuple(getattr(key, column) for column in _COLUMNS.split(", "))
        self._store.change(f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [row])
        self._known[key.id] = key
        self._seen = True
        return key, f"weft-{key.id}-{secret}"

    def revoke(self, name: str) -> Key:
        """Make the key with this id or name useless. Raises UsageError unless it names exactly one."""
        found = [key for key in self._known.values() if name in (key.id, key.name) and key.revoked is None]
        if len(found) != 1:
            said = "is no key in use" if not found else "names several keys; give the id"
            raise UsageError(f"{name!r} {said}; `weft key list` shows them.")
        self._store.change("UPDATE keys SET revoked = ? WHERE id = ?", [(time.time(), found[0].id)])
        self.reload()
        return self._known[found[0].id]


def _digest(secret: str, salt: str) -> str:
    return hashlib.blake2b(secret.encode(), key=salt.encode(), digest_size=32).hexdigest()

"""Who may come in now: a bounded queue for each model, and the bounds of each key."""

from __future__ import annotations

import math
import time

from weft.server.backend import Backend
from weft.server.errors import ApiError
from weft.server.keys import Key
from weft.server.ledger import Ledger
from weft.server.limits import Limits

_MINUTE = 60.0


class Admission:
    """Lets requests in or raises ApiError: 429 with the seconds after which to try again, 400 for what would
    never come in."""

    def __init__(self, limits: Limits, ledger: Ledger | None):
        self._limits, self._ledger = limits, ledger
        self._buckets: dict[str, tuple[float, float]] = {}

    def request(self, key: Key | None) -> None:
        """One request of ``key``, by its own bounds."""
        if key is None:
            return
        if key.requests_per_minute is not None:
            self._take(key.id, key.requests_per_minute)
        if key.tokens_per_day is not None and self._ledger is not None:
            used = self._ledger.tokens_today(key.id)
            if used >= key.tokens_per_day:
                message = f"This key has used its {key.tokens_per_day} tokens of the day ({used})."
                raise _refusal(message, self._ledger.seconds_to_midnight(), "quota_exceeded")

    def answers(self, engine: Backend, count: int, key: Key | None, param: str = "n") -> None:
        """``count`` answers more in the queue of a model, for ``key``; ``param`` is the field that asks."""
        sequences = int(engine.facts["sequences"])
        places = sequences + self._limits.waiting
        share = places if key is None else max(sequences, int(places * self._limits.owner_share))
        if count > share:
            whose = "this server has places for" if share == places else "one key may have under way"
            message = (
                f"{param}: {count} answers are more than the {share} that {whose}; ask for fewer at once."
            )
            raise ApiError(400, message, param=param)
        if self.full(engine, count):
            raise self.refusal(engine)
        if key is not None and engine.held_by(key.id) + count > share:
            message = f"This key already has its {share} answers under way; wait for some of them."
            raise _refusal(message, self._wait(engine), "queue_full")

    def full(self, engine: Backend, count: int = 1) -> bool:
        """Whether ``count`` answers more have no place in the queue of a model, whoever asks."""
        return max(0, engine.active + count - int(engine.facts["sequences"])) > self._limits.waiting

    def refusal(self, engine: Backend) -> ApiError:
        """What is said then."""
        return _refusal("The queue is full; try again later.", self._wait(engine), "queue_full")

    def _take(self, key_id: str, per_minute: int) -> None:
        """A token bucket: a minute's requests may come at once, then they come evenly."""
        now = time.monotonic()
        left, at = self._buckets.get(key_id, (float(per_minute), now))
        left = min(float(per_minute), left + (now - at) * per_minute / _MINUTE)
        if left < 1:
            self._buckets[key_id] = (left, now)
            after = math.ceil((1 - left) * _MINUTE / per_minute)
            raise _refusal(f"This key may send {per_minute} requests a minute.", after, "rate_limit_exceeded")
        self._buckets[key_id] = (left - 1, now)

    def _wait(self, engine: Backend) -> int:
        """Seconds until places are likely free: in proportion to the queue, within a minute."""
        rounds = engine.active / max(1, int(engine.facts["sequences"]))
        return min(60, max(1, round(self._limits.retry_after_seconds * rounds / 2)))


def _refusal(message: str, after: int, code: str) -> ApiError:
    return ApiError(429, message, code=code, headers={"Retry-After": str(after)})

"""Blocks of the key-value cache: who holds which, and which hold a known prefix. No torch here.

A sequence of n cached tokens holds ceil(n / BLOCK) blocks (PagedAttention, arXiv:2309.06180). A full block
whose tokens are final is *sealed*: it is found again by the hash of everything up to its end, so equal
prefixes are computed once and shared. Blocks that nobody holds stay findable until their space is needed;
the one let go longest ago goes first.
"""

from __future__ import annotations

import secrets
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from weft.core.errors import InternalError

BLOCK = 16
"""Positions of a block: the lanes of a 512-bit vector of fp32 scores, so the attention kernel takes one block
as one vector. A prefix is shared but for its last 15 tokens, and a sequence wastes 7.5 places on average."""

_SECRET = secrets.token_bytes(32)


def root(*salts: str) -> bytes:
    """The digest of an empty prefix; only prefixes with equal salts are ever shared.

    Digests are keyed by a secret of this process, so nobody can search for colliding prompts beforehand.
    """
    digest = blake2b(key=_SECRET, digest_size=32)
    for salt in salts:
        encoded = salt.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()


def link(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The digest of the prefix that ends with the block ``tokens`` (of :data:`BLOCK`) after ``parent``."""
    return blake2b(parent + array("q", tokens).tobytes(), key=_SECRET, digest_size=32).digest()


class BlockPool:
    """``total`` blocks, each free, held by sequences, or kept for a prefix that may come again."""

    def __init__(self, total: int):
        self.total = total
        self.clear()

    def clear(self) -> None:
        """Nobody holds a block any more, and no prefix is found."""
        total = self.total
        self._free = list(range(total - 1, -1, -1))
        self._holders = [0] * total
        self._digests: list[bytes | None] = [None] * total
        self._places: dict[bytes, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that can be taken now; kept prefixes make way."""
        return len(self._free) + len(self._kept)

    def take(self) -> int:
        """A block for new content. Ask :attr:`available` first."""
        if self._free:
            block = self._free.pop()
        elif self._kept:
            block, _ = self._kept.popitem(last=False)
            self._forget(block)
        else:
            raise InternalError(
                "The engine took a block of the cache where none was left; please report this."
            )
        self._holders[block] = 1
        return block

    def find(self, digest: bytes) -> int | None:
        """The block that holds the prefix with this digest, not yet held for the caller."""
        return self._places.get(digest)

    def hold(self, block: int) -> None:
        """One more sequence holds ``block``."""
        if self._holders[block] == 0:
            del self._kept[block]
        self._holders[block] += 1

    def idle(self, block: int) -> bool:
        """Whether ``block`` is kept but held by nobody, so that holding it makes one less available."""
        return self._holders[block] == 0

    def release(self, blocks: Sequence[int]) -> None:
        """One holder lets go of ``blocks``, given in the order of their positions."""
        # The end of a prefix is of use only with its beginning, so ends are let go, and reused, first.
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if self._digests[block] is None:
                    self._free.append(block)
                else:
                    self._kept[block] = None
            elif self._holders[block] < 0:
                raise InternalError("The engine let go of a block of the cache twice; please report this.")

    def seal(self, block: int, digest: bytes) -> None:
        """``block`` is full and final, with this digest. Of two equal blocks the first is found."""
        if digest not in self._places:
            self._places[digest], self._digests[block] = block, digest

    def forget_all(self) -> None:
        """No prefix is found any more (the weights changed, say)."""
        for block in list(self._places.values()):
            self._forget(block)
        self._free.extend(self._kept)
        self._kept.clear()

    def check(self, held: int) -> None:
        """Raise InternalError unless ``held`` references account for every block that is not available."""
        references = sum(self._holders)
        holding = self.total - self._holders.count(0)
        known = self.total - self._digests.count(None)
        if references != held or holding + self.available != self.total or known != len(self._places):
            raise InternalError(
                f"The engine's blocks do not balance: {self.total} in all, {holding} held by {references} "
                f"references where {held} are due, {self.available} available, {known} sealed of "
                f"{len(self._places)}; please report this."
            )

    def _forget(self, block: int) -> None:
        digest = self._digests[block]
        if digest is not None:
            del self._places[digest]
            self._digests[block] = None

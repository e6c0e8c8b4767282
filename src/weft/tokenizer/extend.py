"""A tokenizer with more tokens, learnt from the texts of a domain; every token that it had keeps its id.

For BPE (Sennrich et al. 2016), byte-level or over characters with a fall-back to bytes: what the old merges
leave of each word is merged further, as training would have gone on. The new merges rank behind the old ones,
so that a word is first encoded as before, and a text without a new token keeps its encoding.
"""

from __future__ import annotations

import heapq
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tokenizers

from weft.core.errors import DataError, UsageError
from weft.tokenizer.encode import Tokenizer

LEAST = 2
"""How often a pair must occur to become a token, as in training."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# To SentencePiece a whole text is one piece; its words begin with this mark, which bytes never spell.
_MARKED = re.compile("▁*[^▁]+|▁+")

Pair = tuple[int, int]


@dataclass(frozen=True)
class Extended:
    """``pieces`` [new tokens]: the old ids that each new token stands for, in the order of the new ids, which
    begin at the old tokenizer's ``vocab_size``."""

    tokenizer: Tokenizer
    pieces: list[list[int]]


def extend(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> Extended:
    """Learn up to ``count`` tokens from ``texts``; fewer where nothing else occurs twice.

    UsageError for a count below 1, DataError for a tokenizer that is no BPE (or one that marks the places of
    pieces in words), or texts that need no new token.
    """
    if count < 1:
        raise UsageError(f"{count} new tokens are not possible; give at least 1.")
    content = json.loads(tokenizer.to_json())
    model = content["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise DataError(
            f"This tokenizer is a {model['type']} and cannot be extended; that is for BPE, byte-level "
            "or with a fall-back to bytes."
        )
    words = _words(tokenizers.Tokenizer.from_str(tokenizer.to_json()), texts)
    names = {added["content"]: added["id"] for added in content["added_tokens"]}
    learner = _Learner(model["vocab"] | names, tokenizer.vocab_size, _unmerged(content))
    learner.add_characters(words, count)
    learner.add_merges(words, count)
    if not learner.pieces:
        raise DataError("These texts need no new token: no two pieces of a word occur together twice.")
    return Extended(_made(tokenizer, content, learner), learner.pieces)


@dataclass
class _Learner:
    """The tokens that are learnt. ``apart``: old tokens that nothing is merged with."""

    vocab: dict[str, int]
    next: int
    apart: frozenset[int]
    merges: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = self.next
        self.new: dict[str, int] = {}
        self.name = {number: token for token, number in self.vocab.items()}

    def add(self, token: str, ids: Iterable[int]) -> int:
        """A new token for ``ids``, old or new."""
        number, self.next = self.next, self.next + 1
        self.new[token], self.name[number] = number, token
        self.pieces.append([one for part in ids for one in self.old(part)])
        return number

    def old(self, number: int) -> list[int]:
        """The old tokens that a token stands for."""
        return [number] if number < self.first else self.pieces[number - self.first]

    def add_characters(self, words: list[_Word], count: int) -> None:
        """Characters that are spelled in bytes become tokens, those first that save most."""
        found: Counter[str] = Counter()
        ids: dict[str, list[int]] = {}
        for word in words:
            for character, spelled in word.spelled():
                found[character] += word.count
                ids[character] = spelled
        known = [one for one, times in found.items() if times >= LEAST and one not in self.vocab]
        saved = {one: found[one] * (len(ids[one]) - 1) for one in known}
        for character in sorted(known, key=lambda one: (-saved[one], one))[:count]:
            self.add(character, ids[character])
        for word in words:
            word.join(self.new)

    def add_merges(self, words: list[_Word], count: int) -> None:
        """Merge the most frequent pair, again and again."""
        pairs = _Pairs(words, self.apart)
        while len(self.pieces) < count and (pair := pairs.best()) is not None:
            token = self.name[pair[0]] + self.name[pair[1]]
            if token in self.vocab or token in self.new:
                # A second way to a token that there is would change how other texts are merged.
                pairs.drop(pair)
                continue
            self.merges.append((self.name[pair[0]], self.name[pair[1]]))
            pairs.merge(pair, self.add(token, pair))


class _Word:
    """A piece of text that merges do not cross, as the old tokenizer encodes it."""

    def __init__(self, ids: list[int], count: int, characters: list[tuple[str, int, int]]) -> None:
        """``characters``: those that are spelled in bytes, and the places of these in ``ids``."""
        self.ids, self.count, self._characters = ids, count, characters

    def spelled(self) -> Iterator[tuple[str, list[int]]]:
        """(character, its byte tokens) of each that has no token."""
        for character, start, stop in self._characters:
            yield character, self.ids[start:stop]

    def join(self, known: dict[str, int]) -> None:
        """Put the tokens of characters in place of their bytes."""
        for character, start, stop in reversed(self._characters):
            if character in known:
                self.ids[start:stop] = [known[character]]
        self._characters = []


class _Pairs:
    """How often tokens follow each other in the words, kept up to date while they are merged."""

    def __init__(self, words: list[_Word], apart: frozenset[int]) -> None:
        self._words, self._apart = words, apart
        self._counts: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        self._dropped: set[Pair] = set()
        for number in range(len(words)):
            self._count(number, 1)
        # What it says of a pair may be too much later, never too little: counts only fall.
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def best(self) -> Pair | None:
        """The most frequent pair, of equal ones that of the smallest ids; None below :data:`LEAST`."""
        while self._heap:
            count, pair = self._heap[0]
            now = self._counts[pair]
            if pair in self._dropped or now < LEAST:
                heapq.heappop(self._heap)
            elif -count != now:
                heapq.heapreplace(self._heap, (-now, pair))
            else:
                return pair
        return None

    def drop(self, pair: Pair) -> None:
        """Never give this pair again."""
        self._dropped.add(pair)

    def merge(self, pair: Pair, number: int) -> None:
        """Put ``number`` in place of the pair in all words."""
        made: set[Pair] = set()
        for index in self._where.pop(pair):
            word = self._words[index]
            self._count(index, -1)
            ids: list[int] = []
            for one in word.ids:
                if ids and (ids[-1], one) == pair:
                    ids[-1] = number
                else:
                    ids.append(one)
            word.ids = ids
            self._count(index, 1)
            made |= {new for new in itertools.pairwise(ids) if number in new and self._allowed(new)}
        for new in made:
            heapq.heappush(self._heap, (-self._counts[new], new))
        del self._counts[pair]

    def _count(self, index: int, sign: int) -> None:
        word = self._words[index]
        for pair in itertools.pairwise(word.ids):
            if self._allowed(pair):
                self._counts[pair] += sign * word.count
                self._where[pair].add(index)

    def _allowed(self, pair: Pair) -> bool:
        return pair[0] not in self._apart and pair[1] not in self._apart


def _words(inner: Any, texts: Iterable[str]) -> list[_Word]:
    """The words of the texts with their counts, in a fixed order."""
    pieces: Counter[str] = Counter()
    for text in texts:
        if inner.normalizer is not None:
            text = inner.normalizer.normalize_str(text)
        found = [(text, None)] if inner.pre_tokenizer is None else inner.pre_tokenizer.pre_tokenize_str(text)
        for piece, _ in found:
            pieces.update(_MARKED.findall(piece) if "▁" in piece else (piece,))
    words = []
    for piece in sorted(pieces):
        tokens = inner.model.tokenize(piece)
        words.append(_Word([token.id for token in tokens], pieces[piece], _fallen(piece, tokens)))
    return words


def _fallen(piece: str, tokens: list[Any]) -> list[tuple[str, int, int]]:
    """(character, first token, token after the last) of the characters of ``piece`` that became bytes."""
    found, place, character = [], 0, 0
    while place < len(tokens):
        value = tokens[place].value
        if not _BYTE.fullmatch(value) or piece.startswith(value, character):
            place, character = place + 1, character + len(value)
            continue
        stop = place + len(piece[character].encode("utf-8"))
        found.append((piece[character], place, stop))
        place, character = stop, character + 1
    return found


def _unmerged(content: dict[str, Any]) -> frozenset[int]:
    """Tokens that stand for no text of their own: bytes of a fall-back, unknown, special."""
    vocab, unknown = content["model"]["vocab"], content["model"].get("unk_token")
    apart = {added["id"] for added in content["added_tokens"]}
    apart |= {number for token, number in vocab.items() if _BYTE.fullmatch(token) or token == unknown}
    return frozenset(apart)


def _made(tokenizer: Tokenizer, content: dict[str, Any], learner: _Learner) -> Tokenizer:
    """The tokenizer with what was learnt. DataError when its file cannot say it without changing old ids."""
    model = content["model"]
    old = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    model["merges"] = [*old, *(list(merge) for merge in learner.merges)]
    # An added token that the model does not know gets the next free id when the file is opened, and that is
    # another one now.
    model["vocab"] = learner.vocab | learner.new
    made = tokenizer.with_content(json.dumps(content, ensure_ascii=False))
    before = tokenizers.Tokenizer.from_str(tokenizer.to_json()).get_vocab(with_added_tokens=True)
    moved = [token for token, number in before.items() if made.token_id(token) != number]
    if moved or made.vocab_size != learner.next or made.special_ids != tokenizer.special_ids:
        raise DataError(
            f"The tokenizer cannot be extended without moving old tokens ({moved[:3]}); use another one."
        )
    return made

"""A tokenizer that gives back exactly the text, and exactly the bytes, that it was given."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from weft.core.errors import DataError
from weft.core.files import write_text_atomic
from weft.tokenizer import config_json
from weft.tokenizer.bytelevel import CHARACTER_OF_BYTE, to_bytes
from weft.tokenizer.fast import Ends, FastEncoder, Ids
from weft.tokenizer.special import FOREIGN_ENDS, MASK

FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"

# An invalid byte decodes to a lone surrogate under "surrogateescape"; valid UTF-8 never holds one.
_INVALID = re.compile("[\udc80-\udcff]+")
_MARKUP = re.compile(r"<[|｜].+[|｜]>")


class Tokenizer:
    """Encodes and decodes with a Hugging Face ``tokenizer.json``.

    Text is ordinary unless ``allow_special`` is given: a document that spells ``<|endoftext|>`` gets
    the tokens of those characters, never the special token. Byte-level tokenizers (Weft's own, Llama 3,
    Qwen) also encode and decode arbitrary bytes; on others (SentencePiece with byte fallback, as in
    Mistral) the byte methods raise DataError.
    """

    def __init__(
        self, content: str, config: dict[str, Any] | None = None, template: str | None = None
    ) -> None:
        """``content`` is the text of a tokenizer.json, ``config`` what a tokenizer_config.json holds, and
        ``template`` a chat template that replaces those of ``config``."""
        self._special = _parse(content)
        table = json.loads(content)
        self._ordinary = _parse(_without_special_pieces(table) or content)
        self._ordinary.encode_special_tokens = True
        self._content = content
        added = self._special.get_added_tokens_decoder()
        self._added = {i: token.content for i, token in added.items()}
        self._hidden = frozenset(i for i, token in added.items() if token.special)
        self.is_byte_level = _has_byte_level_decoder(table.get("decoder"))
        self.vocab_size = max(self._special.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.eos_token = self._find_eos(config or {})
        self.eos_id = self._special.token_to_id(self.eos_token)
        self._config = config or config_json.own(self.eos_token, masks=self.token_id(MASK) is not None)
        if template is not None:
            self._config = {**self._config, "chat_template": template}

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Open a ``tokenizer.json`` or a folder that holds one; DataError when there is none.

        A ``chat_template.jinja`` beside it is the template, whatever ``tokenizer_config.json`` says.
        """
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        try:
            content = file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"There is no tokenizer at {file}; give a folder with a {FILE}.") from None
        except UnicodeDecodeError:
            raise DataError(f"{file} is not UTF-8 text, so it is no tokenizer; make it again.") from None
        config_file, template_file = file.with_name(CONFIG_FILE), file.with_name(TEMPLATE_FILE)
        config: dict[str, Any] | None = None
        template: str | None = None
        try:
            if config_file.is_file():
                config = json.loads(config_file.read_text(encoding="utf-8"))
            if template_file.is_file():
                template = template_file.read_text(encoding="utf-8")
            return cls(content, config, template)
        except ValueError as error:
            raise DataError(f"The tokenizer {file} is damaged ({error}); make or copy it again.") from error

    def save(self, folder: str | Path) -> None:
        """Write the three files from which ``transformers.AutoTokenizer`` loads the same tokenizer."""
        folder = Path(folder)
        parts = ("bos_token", "eos_token", "pad_token")
        special = {part: self._config[part] for part in parts if self._config.get(part)}
        write_text_atomic(folder / FILE, self._special.to_str(pretty=True))
        write_text_atomic(folder / CONFIG_FILE, _pretty(self._config))
        write_text_atomic(folder / SPECIAL_FILE, _pretty(special))
        # One that another tokenizer left there would win over the template in the configuration.
        (folder / TEMPLATE_FILE).unlink(missing_ok=True)

    def with_content(self, content: str) -> Tokenizer:
        """The same special names and chat template over another tokenizer.json; ValueError for a bad one."""
        return Tokenizer(content, self._config)

    def to_json(self) -> str:
        """The text of its tokenizer.json."""
        text: str = self._special.to_str()
        return text

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of ``text``; with ``allow_special`` the spelling of a special token becomes its id."""
        return self.encode_batch([text], allow_special=allow_special)[0]

    def encode_batch(self, texts: Sequence[str], *, allow_special: bool = False) -> list[list[int]]:
        """:meth:`encode` of each text, on all cores."""
        encoder = self._special if allow_special else self._ordinary
        try:
            encodings = encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):  # the library says TypeError for a whole batch
            raise DataError(
                "A text holds lone surrogates, which UTF-8 cannot spell; clean it first."
            ) from None
        return [encoding.ids for encoding in encodings]

    def encode_message(self, text: str) -> list[int]:
        """:meth:`encode` of what somebody says: of :attr:`undeclared` tokens none is found in it either."""
        marks = [re.escape(name[1:]) for name in self.undeclared]
        parts = re.split(f"(?<=<)(?={'|'.join(marks)})", text) if marks else [text]
        return [token for part in parts for token in self.encode(part)]

    def encode_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """:meth:`encode` of each text, and which characters [start, stop) of it each token stands for.

        The bytes of one character share its place, and a token may hold the space before a word.
        """
        try:
            encodings = self._ordinary.encode_batch(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            raise DataError(
                "A text holds lone surrogates, which UTF-8 cannot spell; clean it first."
            ) from None
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def encode_flat(self, texts: Sequence[str], *, fast: bool = True) -> tuple[Ids, Ends]:
        """:meth:`encode` of many texts at once: all ids [tokens], and where each text ends in them [texts].

        With ``fast`` the fast encoder is used where it is installed and exact, and the shortest text of
        the batch is compared with the plain one: ParityError (weft.tokenizer.fast) if they disagree.
        """
        encoder = self.fast_encoder if fast and len(texts) else None
        if encoder is not None:
            try:
                ids, ends = encoder.encode(texts)
            except Exception:
                # It refuses what it cannot do, for instance a pattern that runs too long: not the end.
                encoder = None
            else:
                encoder.check(texts, ids, ends, min(range(len(texts)), key=lambda index: len(texts[index])))
                return ids, ends
        encoded = self.encode_batch(texts)
        flat = np.fromiter(itertools.chain.from_iterable(encoded), np.uint32)
        return flat, np.cumsum([len(ids) for ids in encoded], dtype=np.int64)

    @functools.cached_property
    def fast_encoder(self) -> FastEncoder | None:
        """The fast encoder of ordinary text, or None where it is not installed or not exact."""
        return FastEncoder.open(self._content, self.encode_batch, list(self._added.values()))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of arbitrary bytes, equal to :meth:`encode` where they are valid UTF-8.

        Each invalid byte becomes the token of that byte, so :meth:`decode_bytes` returns ``data`` (a
        foreign tokenizer with a normaliser gives the normalised bytes).
        """
        text = data.decode("utf-8", errors="surrogateescape")
        byte_ids = self._byte_ids
        ids: list[int] = []
        position = 0
        for match in _INVALID.finditer(text):
            ids += self.encode(text[position : match.start()])
            ids += [byte_ids[ord(character) - 0xDC00] for character in match.group()]
            position = match.end()
        return ids + self.encode(text[position:])

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of ``ids``; bytes that are not valid UTF-8 become U+FFFD. DataError for unknown ids."""
        if skip_special:
            ids = [i for i in ids if i not in self._hidden]
        if self.is_byte_level:
            return self.decode_bytes(ids).decode("utf-8", errors="replace")
        self._check(ids)
        return str(self._special.decode(list(ids), skip_special_tokens=False))

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes of ``ids``; DataError for unknown ids or a tokenizer that is not byte-level."""
        table = self._bytes_table
        self._check(ids)
        return b"".join([table[i] for i in ids])

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for; raises as :meth:`decode_bytes`."""
        table = self._bytes_table
        if not 0 <= token < len(table):
            self._check([token])
        return table[token]

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact name, such as ``<|im_end|>``; None when it has none."""
        found: int | None = self._special.token_to_id(token)
        return found

    @functools.cached_property
    def fallback_bytes(self) -> dict[int, int]:
        """What SentencePiece's tokens of single bytes stand for; empty where there are none."""
        names = {byte: self.token_id(f"<0x{byte:02X}>") for byte in range(256)}
        return {token: byte for byte, token in names.items() if token is not None}

    def piece(self, token: int) -> str:
        """The text of one token where it stands behind others: SentencePiece drops the space that begins a
        text. A part of a character is U+FFFD. DataError for unknown ids."""
        if self.is_byte_level or token in self._hidden:
            return self.decode([token])
        return self.decode([self._before, token])[len(self.decode([self._before])) :]

    @functools.cached_property
    def _before(self) -> int:
        """A token that is text by itself, whatever follows it."""
        marked = [token for token in range(self.vocab_size) if token not in self.fallback_bytes]
        return next(
            (token for token in marked if token not in self._hidden and self.decode([token]).isalnum()), 0
        )

    @functools.cached_property
    def start_ids(self) -> tuple[int, ...]:
        """What stands before the text of a prompt: end of text in Weft's own, ``bos`` in Llama's, nothing
        in Qwen's."""
        return tuple(self._special.encode("", add_special_tokens=True).ids)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that are no text, the end of text among them.

        Added tokens that are text, such as Qwen's ``<tool_call>``, are not among them.
        """
        return self._hidden

    @functools.cached_property
    def undeclared(self) -> tuple[str, ...]:
        """Added tokens that are markup by their look and no special ones, such as DeepSeek's ``<｜User｜>``:
        :meth:`encode` finds them in any text that spells them."""
        names = (name for token, name in self._added.items() if token not in self._hidden)
        return tuple(name for name in names if _MARKUP.fullmatch(name))

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template that came with the tokenizer, ChatML for Weft's own."""
        return self.template()

    def template(self, *, tools: bool = False) -> str | None:
        """:attr:`chat_template`, or the one for conversations with ``tools`` where that is another.

        DataError where the tokenizer's configuration holds no template that can be told.
        """
        return config_json.template(self._config, tools=tools)

    @functools.cached_property
    def template_names(self) -> dict[str, str]:
        """The special tokens as chat templates know them, such as ``bos_token``."""
        start = self.decode(self.start_ids[:1])
        return {"bos_token": start, **config_json.names(self._config), "eos_token": self.eos_token}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the ids: two tokenizers with equal fingerprints encode alike."""
        content = json.loads(self._special.to_str())
        for key in ("truncation", "padding"):
            content.pop(key, None)
        content["eos"] = self.eos_token
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    @functools.cached_property
    def _bytes_table(self) -> list[bytes]:
        if not self.is_byte_level:
            raise DataError(
                "This tokenizer is not byte-level (SentencePiece with byte fallback, for instance), so its "
                "tokens have no exact bytes; use decode() on the whole sequence."
            )
        table = [b""] * self.vocab_size
        for token, index in self._special.get_vocab(with_added_tokens=True).items():
            known = None if index in self._added else to_bytes(token)
            table[index] = token.encode("utf-8") if known is None else known
        return table

    @functools.cached_property
    def _byte_ids(self) -> list[int]:
        ids = [self._special.token_to_id(CHARACTER_OF_BYTE[byte]) for byte in range(256)]
        if not self.is_byte_level or None in ids:
            raise DataError("This tokenizer lacks tokens for single bytes, so it cannot encode any bytes.")
        return ids

    def _check(self, ids: Sequence[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise DataError(f"Token id {wrong} is outside the vocabulary of {self.vocab_size} tokens.")

    def _find_eos(self, config: dict[str, Any]) -> str:
        for token in (config_json.names(config).get("eos_token"), *FOREIGN_ENDS):
            if token and self._special.token_to_id(token) is not None:
                return str(token)
        raise DataError(f"The tokenizer names no end of text; add eos_token to its {CONFIG_FILE}.")


def _parse(content: str) -> Any:
    try:
        parsed = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception for every fault of the file
        raise ValueError(str(error)) from error
    parsed.no_padding()
    parsed.no_truncation()
    return parsed


def _without_special_pieces(table: dict[str, Any]) -> str | None:
    """A tokenizer.json of a Unigram, which finds the pieces of special tokens in any text that spells them,
    without those; None for other kinds."""
    model = table["model"]
    if model.get("type") != "Unigram":
        return None
    tokens = table.get("added_tokens") or []
    special = {token["content"] for token in tokens if token["special"]}
    held = {piece for piece, _ in model["vocab"]} & special
    # Ids are places, so each keeps its own, under a name that nobody can guess.
    vocab = [[secrets.token_hex(16) if piece in held else piece, score] for piece, score in model["vocab"]]
    added = [token for token in tokens if token["content"] not in held]
    return json.dumps({**table, "model": {**model, "vocab": vocab}, "added_tokens": added})


def _has_byte_level_decoder(decoder: dict[str, Any] | None) -> bool:
    if not decoder:
        return False
    if decoder["type"] == "Sequence":
        return any(_has_byte_level_decoder(part) for part in decoder["decoders"])
    return bool(decoder["type"] == "ByteLevel")


def _pretty(table: dict[str, Any]) -> str:
    return json.dumps(table, ensure_ascii=False, indent=2, sort_keys=True) + "\n"

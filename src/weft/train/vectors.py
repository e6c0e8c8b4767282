"""Pretrained word vectors as the first rows of a fresh embedding: word2vec, GloVe or fastText text files.

N words found, D dimensions of the vectors, E model width.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from weft.core.errors import ConfigError, DataError
from weft.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]

_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError)


def words(tokenizer: Tokenizer) -> dict[bytes, list[int]]:
    """The tokens that may be a word, by the word: a token's text without the space before it.

    A word has two tokens where the tokenizer has one with and one without the space. A word of several pieces
    has none.
    """
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for token in range(tokenizer.vocab_size):
        if token in tokenizer.special_ids:
            continue
        spelled = (
            tokenizer.token_bytes(token) if tokenizer.is_byte_level else tokenizer.decode([token]).encode()
        )
        word = spelled.removeprefix(b" ")
        if word.strip() and not any(space in word for space in b" \t\r\n"):
            found[word].append(token)
    return dict(found)


def read(file: str | Path, wanted: Mapping[bytes, Any]) -> dict[bytes, Floats]:
    """The vectors [D] of the wanted words that ``file`` has; of a word that comes twice the first one.

    A line is a word and its numbers with spaces between them; a first line of two numbers says how many lines
    and numbers there are. Plain, or compressed as .gz, .bz2, .xz, .zst or a .zip of one file. DataError for a
    file that is missing, cut off or otherwise broken.
    """
    file = Path(file)
    try:
        with _opened(file) as stream:
            return _parsed(file, stream, wanted)
    except FileNotFoundError:
        raise DataError(f"There is no file {file}; check model.vectors.") from None
    except _BROKEN as error:
        raise DataError(f"The word vectors {file} cannot be read: {error}; get the file again.") from error


def _parsed(file: Path, stream: IO[bytes], wanted: Mapping[bytes, Any]) -> dict[bytes, Floats]:
    found: dict[bytes, Floats] = {}
    count, size, lines = None, 0, 0
    for number, raw in enumerate(stream, 1):
        line = raw.rstrip()
        if number == 1 and (header := _header(line)) is not None:
            count, size = header
            continue
        size = size or len(line.split(b" ")) - 1
        # Some words of GloVe hold spaces, so that the numbers are counted from the end.
        word, *numbers = line.rsplit(b" ", size) if size else [line]
        if size < 1 or len(numbers) != size:
            raise DataError(
                f"Line {number} of {file} has {len(numbers)} numbers, not {size or 'some'}; it is no text "
                "file of word vectors, or it was cut off."
            )
        lines += 1
        if word in wanted and word not in found:
            found[word] = _numbers(file, number, numbers)
    if count is not None and lines != count:
        raise DataError(f"{file} has {lines} vectors and its first line says {count}; get the file again.")
    return found


def _header(line: bytes) -> tuple[int, int] | None:
    parts = line.split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def _numbers(file: Path, number: int, texts: list[bytes]) -> Floats:
    try:
        vector = np.array([float(text) for text in texts])
    except ValueError:
        raise DataError(f"Line {number} of {file} holds {texts[0]!r} where numbers stand.") from None
    if not np.isfinite(vector).all():
        raise DataError(f"Line {number} of {file} holds a number that is not finite.")
    return vector


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    kinds: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    suffix = file.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise DataError(f"{file} holds {len(names)} files; unpack it, and name the one to read.")
            with archive.open(names[0]) as stream:
                yield stream
    elif suffix == ".zst":
        with pa.input_stream(str(file), compression="zstd") as packed, io.BufferedReader(packed) as stream:
            yield stream
    else:
        with kinds.get(suffix, open)(file, "rb") as stream:
            yield stream


def fitted(vectors: Floats, width: int, deviation: float) -> Floats:
    """[N, D] -> [N, min(D, E)] with mean 0 and the standard deviation that the initialiser has.

    Wider vectors are projected on their principal components: the directions of word vectors have no order,
    and the first E of them are as good as any, while the components keep most of what tells words apart.
    Narrower ones stay as they are, and the other columns as they were drawn: constants there would be
    dimensions without use. The common mean is taken off since it tells nothing apart (Mu and Viswanath 2018,
    arXiv:1702.01417).
    """
    centred = vectors - vectors.mean(0)
    if centred.shape[1] > width:
        _, axes = np.linalg.eigh(centred.T @ centred)
        best = axes[:, ::-1][:, :width]
        # An axis may point either way; one way for all machines.
        ends = best[np.abs(best).argmax(0), np.arange(width)]
        centred = centred @ (best * np.where(ends < 0.0, -1.0, 1.0))
    spread = float(centred.std())
    scaled: Floats = centred * (deviation / spread) if spread else centred
    return scaled


@torch.no_grad()
def begin(weight_VE: Tensor, tokenizer: Tokenizer, file: str) -> str:
    """Let the rows of a freshly drawn embedding start from the vectors of ``file``; says how many were found.

    Raises what :func:`read` raises, and ConfigError when the tokenizer has none of the words.
    """
    wanted = words(tokenizer)
    found = read(file, wanted)
    if len(found) < 2:
        raise ConfigError(
            f"model.vectors = {file} has vectors for {len(found)} tokens of the tokenizer; they are of "
            "another language, or of whole words where the vocabulary is small. Leave it out."
        )
    names = sorted(found)
    given = np.stack([found[name] for name in names])
    rows = torch.from_numpy(fitted(given, weight_VE.shape[1], float(weight_VE.float().std())))
    places = [token for name in names for token in wanted[name]]
    index = [number for number, name in enumerate(names) for _ in wanted[name]]
    weight_VE[places, : rows.shape[1]] = rows[index].to(weight_VE)
    how = f"{given.shape[1]} numbers each"
    if given.shape[1] > weight_VE.shape[1]:
        how += f", of which {weight_VE.shape[1]} principal components are taken"
    return f"word vectors: {len(places):,} of {tokenizer.vocab_size:,} tokens start from {file} ({how})"

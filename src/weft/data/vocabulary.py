"""The tokenizer of a data folder: trained on its training split, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.core import config as configuration
from weft.core import manifest
from weft.core.files import atomic_directory
from weft.data import documents
from weft.data.config import TokenizerConfig
from weft.data.schema import BYTES, ID, TEXT, TOKENIZER
from weft.tokenizer import Tokenizer, train
from weft.tokenizer.encode import CONFIG_FILE, FILE, SPECIAL_FILE
from weft.tokenizer.train import check_vocab_size

COMMAND = "tokenizer"


def train_tokenizer(
    data_folder: str | Path,
    vocab_size: int = 8192,
    sample_bytes: int = TokenizerConfig.sample_bytes,
    *,
    encoder: bool = False,
) -> Tokenizer:
    """Train on ``data_folder/documents/train`` and save to ``data_folder/tokenizer``; once done, load it.

    ``encoder`` as in :func:`weft.tokenizer.train.train`. Of a larger split, documents are drawn by content
    hash until about ``sample_bytes`` (0: all).
    Raises UsageError for an impossible size, DataError when there are no documents.
    """
    check_vocab_size(vocab_size)
    data_folder = Path(data_folder)
    out = data_folder / TOKENIZER
    text = configuration.dump(TokenizerConfig(vocab_size, sample_bytes, encoder=encoder or None))
    inputs = {"documents": documents.fingerprint(data_folder)}
    if manifest.is_done(out, command=COMMAND, config=text, inputs=inputs):
        return Tokenizer.load(out)
    total = documents.byte_count(data_folder, "train")
    share = min(1.0, sample_bytes / total) if sample_bytes and total else 1.0
    tokenizer = train(_sample(data_folder, share), vocab_size, encoder=encoder)
    figures = {
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "share": round(share, 4),
    }
    _save(tokenizer, out, text, inputs, figures)
    return tokenizer


def adopt_tokenizer(data_folder: str | Path, path: str | Path) -> Tokenizer:
    """Copy a given tokenizer to ``data_folder/tokenizer``, so that the folder is whole; DataError if bad."""
    tokenizer = Tokenizer.load(path)
    out = Path(data_folder) / TOKENIZER
    inputs = {"tokenizer": tokenizer.fingerprint}
    if not manifest.is_done(out, command=COMMAND, config="", inputs=inputs):
        figures = {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
        _save(tokenizer, out, "", inputs, figures)
    return tokenizer


def _save(
    tokenizer: Tokenizer, out: Path, config: str, inputs: dict[str, str], figures: dict[str, Any]
) -> None:
    with atomic_directory(out) as folder:
        tokenizer.save(folder)
        names = (FILE, CONFIG_FILE, SPECIAL_FILE)
        manifest.write(folder, command=COMMAND, config=config, inputs=inputs, figures=figures, outputs=names)


def _sample(data_folder: Path, share: float) -> Iterator[str]:
    # Bits of the hash that decide neither the split nor the partition.
    limit = int(share * (1 << 32))
    for table in documents.read(data_folder, "train", [ID, TEXT, BYTES]):
        ids, texts = table.column(ID).to_pylist(), table.column(TEXT).to_pylist()
        yield from (text for name, text in zip(ids, texts, strict=True) if int(name[8:16], 16) < limit)

"""A checkpoint with a larger vocabulary: new tokens learnt from a domain, and rows that they start from.

The row of a new token is the mean of those of the tokens that it was spelled with before (Gee et al. 2022,
«Fast Vocabulary Transfer for Language Model Compression», arXiv:2402.09977), in the embedding and in an
output matrix of its own; the model then reads the domain's words as something near what it read before.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weft.checkpoint.huggingface import load_any, read_generation, resolve, write_model
from weft.checkpoint.kinds import Model
from weft.checkpoint.safe_folder import inside
from weft.core import manifest
from weft.core.errors import CheckpointError, UsageError
from weft.core.files import atomic_directory
from weft.tasks.card import FILE as CARD
from weft.tasks.naive_bayes import FILE as COUNTS
from weft.tokenizer.encode import Tokenizer
from weft.tokenizer.extend import Extended, extend
from weft.tokenizer.train import MULTIPLE

COMMAND = "tokenizer extend"

_BESIDE = ("chat_template.json", CARD, COUNTS)
"""Files of a checkpoint that stay right when tokens are added."""


def extend_checkpoint(source: str | Path, texts: Iterable[str], count: int, out: Path) -> dict[str, Any]:
    """Write ``source`` with up to ``count`` tokens more that ``texts`` need as the folder ``out``; returns
    the manifest of ``out``.

    Raises CheckpointError for a source that cannot be used, UsageError for an ``out`` that holds something,
    and what :func:`weft.tokenizer.extend.extend` raises.
    """
    folder = resolve(source)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"--out {out} holds something already; choose a new folder.")
    before = Tokenizer.load(folder)
    model = load_any(folder)
    old = model.config.vocab_size
    if before.vocab_size > old:
        raise CheckpointError(f"The tokenizer of {folder} has more tokens than its model ({old}).")
    found = extend(before, texts, count)
    grow(model, before.vocab_size, found)
    with atomic_directory(out) as temporary:
        files = write_model(temporary, model, found.tokenizer, generation=read_generation(folder))
        for name in _BESIDE:
            if inside(folder, name).is_file():
                shutil.copyfile(folder / name, temporary / name)
        return manifest.write(
            temporary,
            command=COMMAND,
            config=f"count = {count}\n",
            inputs={"tokenizer": before.fingerprint},
            figures={
                "new_tokens": len(found.pieces),
                "tokens": found.tokenizer.vocab_size,
                "vocab_size": {"before": old, "after": model.config.vocab_size},
                "parameters": model.config.parameters,
                "fingerprint": found.tokenizer.fingerprint,
            },
            outputs=files,
        )


@torch.no_grad()
def grow(model: Model, first: int, found: Extended) -> None:
    """Give ``model`` rows for the new tokens, which begin at ``first``, in place.

    Where the model has rows beyond its tokens these are used; afterwards it has a multiple of 64. What
    fills it up is the mean of the old rows, which no token names.
    """
    size = max(-(-found.tokenizer.vocab_size // MULTIPLE) * MULTIPLE, model.config.vocab_size)
    size = -(-size // MULTIPLE) * MULTIPLE
    model.embedding.weight = _grown(model.embedding.weight, first, found.pieces, size)
    model.embedding.num_embeddings = size
    output = getattr(model, "output", None)
    if isinstance(output, nn.Linear):
        tied = model.config.tie_word_embeddings
        output.weight = model.embedding.weight if tied else _grown(output.weight, first, found.pieces, size)
        if output.bias is not None:
            output.bias = _grown(output.bias, first, found.pieces, size)
        output.out_features = size
    model.config = dataclasses.replace(model.config, vocab_size=size)


def _grown(rows: Tensor, first: int, pieces: list[list[int]], size: int) -> nn.Parameter:
    """[V, ...] -> [size, ...]: the rows from ``first`` on are the means of those of the pieces."""
    kept = rows[:first].float()
    made = [kept[one].mean(0) for one in pieces]
    new = torch.stack(made) if made else kept[:0]
    beyond = rows[first + len(pieces) :]
    rest = kept.mean(0).expand(size - first - len(pieces) - len(beyond), *rows.shape[1:])
    parts = (rows[:first], new.to(rows.dtype), beyond, rest.to(rows.dtype))
    return nn.Parameter(torch.cat(parts).contiguous(), requires_grad=rows.requires_grad)

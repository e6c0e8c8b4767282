"""``weft data``: documents, tokenizer and shards of one folder, each stage done once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weft.core import config as configuration
from weft.core import manifest
from weft.core.errors import UsageError
from weft.data import documents, pipeline, shards
from weft.data.config import DataConfig
from weft.data.schema import DOCUMENTS, SHARDS, TOKENIZER
from weft.data.vocabulary import adopt_tokenizer, train_tokenizer
from weft.tokenizer.train import check_vocab_size

COMMAND = "data"


def prepare(config: DataConfig, sources: Sequence[str | Path], out: Path) -> dict[str, Any]:
    """Make ``out/documents``, ``out/tokenizer`` and ``out/shards``; returns ``out/manifest.json``.

    ``sources`` are added to those of ``config``. A stage that is done for the same input and
    configuration is not done again. Raises the errors of the stages.
    """
    everything = [*config.sources, *sources]
    if not everything:
        raise UsageError("There is nothing to read; give a file or folder, or set sources in the run file.")
    if config.tokenizer.path is None:
        check_vocab_size(config.tokenizer.vocab_size)
    resolved = replace(config, sources=tuple(str(source) for source in everything))
    built = pipeline.build(config, everything, out)
    began = time.perf_counter()
    if config.tokenizer.path is None:
        wanted = config.tokenizer
        tokenizer = train_tokenizer(out, wanted.vocab_size, wanted.sample_bytes, encoder=bool(wanted.encoder))
    else:
        tokenizer = adopt_tokenizer(out, config.tokenizer.path)
    trained = time.perf_counter()
    encoded = shards.write(out, tokenizer, out / SHARDS)
    seconds = {"tokenizer": round(trained - began, 3), "shards": round(time.perf_counter() - trained, 3)}
    figures = built["figures"] | {
        "shards": encoded["figures"],
        "tokenizer": tokenizer.fingerprint,
        "seconds": built["figures"]["seconds"] | seconds,
    }
    inputs = {
        **built["inputs"],
        DOCUMENTS: documents.fingerprint(out),
        TOKENIZER: tokenizer.fingerprint,
    }
    # Where it ran changes nothing in the result.
    text = configuration.dump(replace(resolved, on=DataConfig.on, part_bytes=DataConfig.part_bytes))
    if manifest.is_done(out, command=COMMAND, config=text, inputs=inputs):
        return manifest.read(out) or {}
    return manifest.write(out, command=COMMAND, config=text, inputs=inputs, figures=figures)

"""One evaluation: the model on held-out text, and beside it the baselines that it must beat."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from weft.core.errors import CheckpointError, DataError
from weft.data import documents
from weft.data.schema import BYTES, ID, SHARDS
from weft.data.shards import Shards, open_split
from weft.eval.baselines.lzma_ import LzmaBits
from weft.eval.baselines.ngram import NgramModel
from weft.eval.compare import paired, ratio, wilson
from weft.eval.decoder_model import Generate
from weft.eval.metrics.bits_per_byte import document_bits
from weft.eval.metrics.python_parse import UNTIL, function_headers, parse_share
from weft.eval.protocol import GenerateRequest, Generation
from weft.models import Decoder
from weft.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True)
class EvalConfig:
    """``overlap``: tokens that windows of a long document share (None: half of the model's context).

    ``prompts`` function headers are continued by up to ``max_new_tokens`` at ``temperature``. The
    baselines learn from at most ``train_bytes`` of the training text, whole documents in the order of
    their ids.
    """

    split: str = "test"
    overlap: int | None = None
    rows: int = 8
    ngram_order: int = 5
    train_bytes: int = 64 * 2**20
    prompts: int = 100
    max_new_tokens: int = 120
    temperature: float = 0.8
    seed: int = 0


def evaluate(
    model: Decoder,
    tokenizer: Tokenizer,
    data_folder: Path,
    generate: Generate | None = None,
    config: EvalConfig = EvalConfig(),
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Bits per byte of model, LZMA and n-grams on a split, and the share of generated functions that parse.

    ``perplexity`` is the model's, per token: it compares formats of one model, not models of two tokenizers.
    ``data_folder`` is one that ``weft data`` made with ``tokenizer``. Without ``generate``, and on text
    that holds no Python functions, the parse share is None. Raises DataError for data that are missing,
    damaged or encoded with another tokenizer, CheckpointError for a model that does not fit the tokenizer.
    """
    shards = _open(data_folder, model, tokenizer, config.split)
    texts, order = _texts(data_folder, config.split), _order(data_folder, config.split)
    sizes = np.array([len(text.encode("utf-8")) for text in texts], np.float64)
    train, used = _training_part(data_folder, config.train_bytes)
    seconds: dict[str, float] = {}
    with _Clock(seconds, "lzma"), LzmaBits(train, [texts[i].encode("utf-8") for i in order]) as compressor:
        with _Clock(seconds, "ngram"):
            say(f"n-gram model of order {config.ngram_order}, LZMA beside it")
            ngram, ngram_bits = _ngram(data_folder, shards, used, config.ngram_order)
        with _Clock(seconds, "model"):
            say(f"model on {len(texts)} documents, {sizes.sum() / 1e6:.2f} MB")
            model_bits = _model_bits(model, shards, config)
        with _Clock(seconds, "parse"):
            parse = _parse(texts, tokenizer, generate, ngram, config) if generate is not None else None
        say("waiting for LZMA")
        lzma_bits = np.empty(len(texts))
        lzma_bits[order] = compressor.result()
    bits = {"model": model_bits, "lzma": lzma_bits, "ngram": ngram_bits}
    return {
        "split": config.split,
        "documents": len(texts),
        "bytes": int(sizes.sum()),
        "tokens": shards.reader.token_count,
        "bits_per_byte": {name: asdict(ratio(found, sizes)) for name, found in bits.items()},
        "perplexity": float(2 ** (model_bits.sum() / max(shards.reader.token_count, 1))),
        "model_minus": {name: asdict(paired(model_bits, bits[name], sizes)) for name in ("lzma", "ngram")},
        "parse": parse,
        "settings": {
            **asdict(config),
            "context": model.config.max_position_embeddings,
            "overlap": _overlap(model, config),
            "dtype": model.number_format,
            "baseline_train_documents": len(used),
            "baseline_train_bytes": sum(map(len, train)),
        },
        "seconds": seconds,
    }


def _open(data_folder: Path, model: Decoder, tokenizer: Tokenizer, split: str) -> Shards:
    shards = open_split(data_folder / SHARDS, split)
    shards.check_tokenizer(tokenizer)
    if shards.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"The shards hold {shards.vocab_size} different tokens and the model knows only "
            f"{model.config.vocab_size}; evaluate with the model's own data."
        )
    return shards


def _overlap(model: Decoder, config: EvalConfig) -> int:
    return model.config.max_position_embeddings // 2 if config.overlap is None else config.overlap


def _model_bits(model: Decoder, shards: Shards, config: EvalConfig) -> Floats:
    return document_bits(
        model,
        shards.reader.tokens,
        shards.reader.lengths,
        shards.eos_id,
        context=model.config.max_position_embeddings,
        overlap=_overlap(model, config),
        rows=config.rows,
    )


class _Clock:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._seconds[self._name] = round(time.perf_counter() - self._started, 2)


def _texts(data_folder: Path, split: str) -> list[str]:
    found = list(documents.texts(data_folder, split))
    sidecar = pq.read_table(data_folder / SHARDS / f"{split}.parquet", columns=[BYTES])
    if sidecar.column(BYTES).to_pylist() != [len(text.encode("utf-8")) for text in found]:
        raise DataError(
            f"The documents and the shards in {data_folder} are not of the same run; run weft data again."
        )
    return found


def _order(data_folder: Path, split: str) -> npt.NDArray[np.int64]:
    """The documents of a split by their ids: an order that no engine and no machine changes."""
    ids = pq.read_table(data_folder / SHARDS / f"{split}.parquet", columns=[ID]).column(ID).to_pylist()
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)


def _training_part(data_folder: Path, limit: int) -> tuple[list[bytes], list[int]]:
    """Training texts by id up to ``limit`` bytes, at least one, and their indices in the shard."""
    texts = [text.encode("utf-8") for text in _texts(data_folder, "train")]
    chosen: list[int] = []
    total = 0
    for index in _order(data_folder, "train").tolist():
        total += len(texts[index])
        if chosen and total > limit:
            break
        chosen.append(index)
    return [texts[index] for index in chosen], chosen


def _ngram(data_folder: Path, shards: Shards, used: Sequence[int], order: int) -> tuple[NgramModel, Floats]:
    train = open_split(data_folder / SHARDS, "train").reader
    model = NgramModel.fit([train.document(i)[:-1] for i in used], shards.vocab_size, shards.eos_id, order)
    held_out = [shards.reader.document(i)[:-1] for i in range(len(shards.reader))]
    return model, model.bits(held_out)


def _parse(
    texts: Sequence[str], tokenizer: Tokenizer, generate: Generate, ngram: NgramModel, config: EvalConfig
) -> dict[str, Any] | None:
    headers = function_headers(texts, config.prompts)
    if not headers:
        return None
    requests = [
        GenerateRequest(header, UNTIL, config.max_new_tokens, config.temperature, config.seed + index)
        for index, header in enumerate(headers)
    ]
    result: dict[str, Any] = {"functions": len(headers)}
    for name, generator in (("model", generate), ("ngram", _ngram_generator(ngram, tokenizer))):
        completions = [_closed(generation) for generation in generator(requests)]
        result[name] = asdict(wilson(*parse_share(headers, completions)))
        result[f"{name}_samples"] = [h + c for h, c in zip(headers, completions, strict=True)][:5]
    return result


def _closed(generation: Generation) -> str:
    """A text that ended by itself ends its last line too; one that the limit cut off does not."""
    return generation.text + "\n" if generation.finished else generation.text


def _ngram_generator(model: NgramModel, tokenizer: Tokenizer) -> Generate:
    def generate(requests: Sequence[GenerateRequest]) -> list[Generation]:
        answers: list[Generation] = []
        for request in requests:
            prompt = tokenizer.encode(request.context)
            generator = np.random.default_rng(request.seed)
            new = model.generate(prompt, request.max_new_tokens, generator, request.temperature)
            text = tokenizer.decode(new)
            stops = [at for at in map(text.find, request.until) if at >= 0]
            finished = bool(stops) or len(new) < request.max_new_tokens
            answers.append(Generation(text[: min(stops)] if stops else text, finished))
        return answers

    return generate

"""Bits per byte after the same minutes of training: Weft against Hugging Face Trainer and LitGPT.

    python bench/time_to_quality.py [--data FOLDER] [--minutes 10] [--json FILE]

The same for all: the corpus, its splits and its tokenizer (a folder made by `weft data`; by default from
the source of the standard library); the size of the model (the 34M shape of workload.py with the vocabulary
of the data, or --shape); the context of 512; fp32 weights with bf16 matrix work; the threads; the judge,
which is transformers in fp32 on the test split, document by document, end of text included
(peers/evaluate.py).

The clock: for everyone it stands still during start-up, compilation and the first 3 steps, whose time is
replaced by that of three median steps; so LitGPT's compilation costs it nothing. The peers' step time is
measured in a short calibration that is not counted either, and fixes the number of steps, so that their
schedule ends with the minutes. Weft gets the minutes as the budget of its one dial, and pays its own
calibration, validation and checkpoints out of them. Seconds used by the counted steps are printed for all;
more than 3 % from the minutes is marked, and means that the machine changed its speed.

Settings: each peer trains once for every LEARNING_RATE:ROWS of --grid, each time for all the minutes, with
AdamW (betas 0.9 and 0.95, decay 0.1, clip 1.0) and a cosine to 0 after 5 % of warm-up; the best of them *on
the test split itself* counts, which favours the peer. Weft trains once, with its defaults and no search.

What differs: the peers get a shuffled stream of documents with ends of text between them, cut into rows, as
both would pack it themselves, so their rows attend across documents; Weft packs and masks as it does by
default, and its architecture is its default (Qwen3: Llama and norms on queries and keys, 0.01 % more
weights). Each system draws its own first weights. Rows are in memory for the peers; Weft reads its shards.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import environments
import workload
from weft.data.shards import Shards, open_split

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from job import Job

PEERS = {"huggingface": "huggingface_trainer.py", "litgpt": "litgpt_pretrain.py"}
WARM_UP = 3
CALIBRATION_STEPS = 20
GRID = "1e-3:8,2e-3:8,2e-3:4"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder made by `weft data`")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--grid", default=GRID, help="LEARNING_RATE:ROWS of the peers, comma between")
    parser.add_argument("--systems", default="weft,huggingface,litgpt")
    parser.add_argument("--shape", type=Path, help="JSON with keys of the shape to change")
    parser.add_argument("--test-bytes", type=int, default=400_000, help="of the test split; 0 for all")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="keep the models here")
    parser.add_argument("--environments", type=Path, default=environments.DEFAULT)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    unknown = set(given.systems.split(",")) - {"weft", *PEERS}
    if unknown or given.minutes <= 0:
        parser.error(f"unknown systems {sorted(unknown)}" if unknown else "--minutes must be above 0")
    return given


def grid(text: str) -> Iterator[tuple[float, int]]:
    for item in text.split(","):
        rate, _, rows = item.partition(":")
        yield float(rate), int(rows)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def data_folder(given: argparse.Namespace, folder: Path) -> Path:
    """The data folder given, or one made from the standard library."""
    if given.data:
        return Path(given.data)
    say("making the data from the standard library ...")
    source = sysconfig.get_paths()["stdlib"]
    workload.run([sys.executable, "-m", "weft", "data", source, "--out", str(folder / "data")])
    return folder / "data"


def peer_stream(shards: Shards) -> np.ndarray:
    """The training documents in an order drawn once, one after another, an end of text after each."""
    order = np.random.default_rng(0).permutation(len(shards.reader))
    first = np.asarray([shards.eos_id], dtype=shards.reader.dtype)
    return np.concatenate([first, *(shards.reader.document(index) for index in order)])


def training_rows(stream: np.ndarray, count: int) -> np.ndarray:
    """[count, context + 1] rows of the stream in an order drawn anew each epoch."""
    rows = workload.stream_rows(stream, workload.CONTEXT)
    order = np.random.default_rng(1)
    epochs = [order.permutation(len(rows)) for _ in range(-(-count // len(rows)))]
    return rows[np.concatenate(epochs)[:count]]


def train_peer(
    peer: str, rate: float, rows: int, given: argparse.Namespace, stream: np.ndarray, model: Path, out: Path
) -> dict[str, Any]:
    """Calibrate, then train for the minutes; the model is then in ``out``."""
    python = environments.python_of(peer, given.environments)
    script = environments.PEERS / PEERS[peer]

    def run(steps: int, export: Path | None) -> list[float]:
        with tempfile.TemporaryDirectory() as scratch:
            np.save(Path(scratch) / "rows.npy", training_rows(stream, steps * rows))
            job = Job(
                model=str(model),
                rows=str(Path(scratch) / "rows.npy"),
                batch_rows=rows,
                steps=steps,
                scratch=str(Path(scratch) / "run"),
                threads=given.threads,
                learning_rate=rate,
                schedule="cosine",
                warmup_steps=max(1, steps // 20),
                own_weights=True,
                export=str(export) if export else None,
            )
            (Path(scratch) / "run").mkdir()
            return list(workload.train(python, script, job, Path(scratch))["step_seconds"])

    median = statistics.median(run(CALIBRATION_STEPS, None)[CALIBRATION_STEPS // 2 :])
    steps = max(CALIBRATION_STEPS, round(given.minutes * 60 / median))
    began = time.perf_counter()
    seconds = run(steps, out)
    return {
        "system": f"{peer} lr {rate:g}, {rows} rows",
        "steps": steps,
        "tokens": steps * rows * workload.CONTEXT,
        "counted_seconds": sum(seconds[WARM_UP:]) + WARM_UP * statistics.median(seconds[WARM_UP:]),
        "wall_seconds": time.perf_counter() - began,
        "checkpoint": str(out),
    }


def train_weft(given: argparse.Namespace, shape: dict[str, Any], data: Path, out: Path) -> dict[str, Any]:
    """`weft train` with its dial at the minutes and nothing else set but the size."""
    sizes = {
        key: value
        for key, value in shape.items()
        if key not in ("vocab_size", "max_position_embeddings", "rms_norm_eps")
    }
    settings = [f"model.{key}={json.dumps(value)}" for key, value in sizes.items()]
    command = [sys.executable, "-m", "weft", "train", "--data", str(data), "--out", str(out)]
    began = time.perf_counter()
    workload.run([*command, "--budget", f"{given.minutes * 60:g}s", *settings])
    wall = time.perf_counter() - began
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "system": "weft",
        "steps": len(records),
        "tokens": sum(record["tokens"] for record in records),
        "counted_seconds": sum(record["seconds"] for record in records),
        "wall_seconds": wall,
        "checkpoint": str(out / "model"),
    }


def evaluate(
    given: argparse.Namespace, test: Shards, checkpoints: dict[str, str], folder: Path
) -> dict[str, float]:
    """Bits per byte of each checkpoint on the first documents of the test split, drawn in a fixed order."""
    sizes = pq.read_table(test.reader.prefix.with_suffix(".parquet"), columns=["bytes"]).column(0).to_numpy()
    order = np.random.default_rng(2).permutation(len(test.reader))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), given.test_bytes or np.inf)) + 1
    chosen = order[:enough]
    documents = [test.reader.document(index) for index in chosen]
    np.save(folder / "tokens.npy", np.concatenate(documents))
    np.save(folder / "lengths.npy", np.asarray([len(document) for document in documents], np.int64))
    request = {
        "checkpoints": checkpoints,
        "tokens": str(folder / "tokens.npy"),
        "lengths": str(folder / "lengths.npy"),
        "bytes": int(sizes[chosen].sum()),
        "start_id": test.eos_id,
        "context": workload.CONTEXT,
        "threads": given.threads,
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    say(
        f"judging {len(checkpoints)} models on {request['bytes']:,} bytes of {len(chosen)} test documents ..."
    )
    python = environments.python_of("huggingface", given.environments)
    script = environments.PEERS / "evaluate.py"
    workload.run([python, str(script), str(folder / "request.json"), str(folder / "judged.json")])
    judged: dict[str, float] = json.loads((folder / "judged.json").read_text(encoding="utf-8"))
    return judged


def train_all(given: argparse.Namespace, data: Path, folder: Path) -> list[dict[str, Any]]:
    train = open_split(data / "shards", "train")
    shape = {**workload.SHAPE, "vocab_size": train.vocab_size}
    if given.shape:
        shape |= json.loads(given.shape.read_text(encoding="utf-8"))
    python = environments.python_of("huggingface", given.environments)
    model = workload.initial_weights(python, shape, folder / "shape")
    stream = peer_stream(train)
    runs: list[dict[str, Any]] = []
    for system in given.systems.split(","):
        if system == "weft":
            runs.append(train_weft(given, shape, data, folder / "weft"))
            say(f"weft: {runs[-1]['steps']} steps, {runs[-1]['counted_seconds']:.0f} s")
            continue
        for rate, rows in grid(given.grid):
            out = folder / f"{system}-{rate:g}-{rows}"
            runs.append(train_peer(system, rate, rows, given, stream, model, out))
            say(f"{runs[-1]['system']}: {runs[-1]['steps']} steps, {runs[-1]['counted_seconds']:.0f} s")
    return runs


def print_table(runs: list[dict[str, Any]], minutes: float) -> dict[str, Any]:
    """Print every run and the comparison; returns the comparison."""
    print(f"{'system':32} {'steps':>7} {'tokens':>11} {'counted s':>10} {'wall s':>8} {'bits/byte':>10}")
    for run in runs:
        share = run["counted_seconds"] / (minutes * 60)
        off = "*" if abs(share - 1) > 0.03 and (run["system"] != "weft" or share > 1) else " "
        print(
            f"{run['system']:32} {run['steps']:7,} {run['tokens']:11,} {run['counted_seconds']:9,.0f}{off}",
            end=" ",
        )
        print(f"{run['wall_seconds']:8,.0f} {run['bits_per_byte']:10.4f}")
    ours = [run["bits_per_byte"] for run in runs if run["system"] == "weft"]
    theirs = [run for run in runs if run["system"] != "weft"]
    if not ours or not theirs:
        return {}
    best = min(theirs, key=lambda run: float(run["bits_per_byte"]))
    percent = 100 * (1 - ours[0] / best["bits_per_byte"])
    word = "better" if percent >= 0 else "worse"
    against = f"{best['bits_per_byte']:.4f} of {best['system']}"
    print(f"weft {ours[0]:.4f} against {against}: {abs(percent):.1f} % {word}")
    return {"best_peer": best["system"], "percent_fewer_bits": percent}


def main() -> int:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as temporary:
        folder = (given.out or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        data = data_folder(given, folder)
        test = open_split(data / "shards", "test")
        runs = train_all(given, data, folder)
        judged = evaluate(given, test, {run["system"]: run["checkpoint"] for run in runs}, folder)
    for run in runs:
        run["bits_per_byte"] = judged[run["system"]]
    comparison = print_table(runs, given.minutes)
    if given.json:
        options = {name: str(value) for name, value in vars(given).items()}
        record = {"options": options, "runs": runs, **comparison}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

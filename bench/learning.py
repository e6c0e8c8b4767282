"""What lowers the loss at equal steps: one setting of the trainer changed at a time.

    python bench/learning.py --data FOLDER [--steps 150] [--width 128]

Every variant is `weft train` with the same data, seed, tokens a step (4,096) and steps. It prints the
validation loss at the end in nats a token, the seconds of the steps, and the loss beside the first's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

VARIANTS: dict[str, tuple[str, ...]] = {
    "muon 0.012 (default)": (),
    "muon 0.003": ("optimizer.learning_rate=0.003",),
    "muon 0.006": ("optimizer.learning_rate=0.006",),
    "muon 0.024": ("optimizer.learning_rate=0.024",),
    "adamw 0.003": ("optimizer.name=adamw", "optimizer.learning_rate=0.003"),
    "adamw 0.006": ("optimizer.name=adamw", "optimizer.learning_rate=0.006"),
    "cosine": ("optimizer.schedule=cosine",),
    "ema 0.99, measured on the average": ("train.ema=0.99",),
}


def train(
    name: str, settings: tuple[str, ...], given: argparse.Namespace, folder: Path
) -> tuple[float, float]:
    """(validation loss, seconds of all steps) of one variant."""
    out = folder / name.replace(" ", "-")
    common = [f"train.steps={given.steps}", "train.batch_tokens=4096", f"model.hidden_size={given.width}"]
    common += ["data.sequence_length=1024", "train.validate_rows=200", f"train.validate_steps={given.steps}"]
    command = [sys.executable, "-m", "weft", "train", "--data", str(given.data), "--out", str(out)]
    subprocess.run([*command, *common, *settings], check=True, capture_output=True)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return records[-1]["validation_loss"], sum(record["seconds"] for record in records)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--width", type=int, default=128)
    given = parser.parse_args()
    first: float | None = None
    print(f"{'variant':36} {'validation':>10} {'seconds':>8} {'beside the first':>17}")
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in VARIANTS.items():
            loss, seconds = train(name, settings, given, Path(folder))
            first = loss if first is None else first
            print(f"{name:36} {loss:10.4f} {seconds:8.0f} {loss - first:+17.4f}", flush=True)


if __name__ == "__main__":
    main()

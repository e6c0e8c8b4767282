"""Peak memory of `weft data` on a large input made here: synthetic text, English and Chinese, in JSON Lines.

    python bench/data_memory.py [--gigabytes 5] [--folder FOLDER] [--json FILE] [SETTING ...]

Documents are sentences of words drawn from Zipf's law with a vocabulary of 20,000 a language; one in fifty is
an exact and one in fifty a near copy of an earlier one. Peak memory is the sum of the resident sets (shared
pages counted by their share, PSS) of the command and all its processes, sampled each half second. The sizes
of the folders of intermediate results are sampled each five seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_FILE_BYTES = 256 << 20
_WORDS = 20_000
_DRAWS = 1 << 20


def vocabulary(generator: np.random.Generator) -> tuple[list[str], list[str]]:
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    shares = np.linspace(2.0, 0.1, len(letters))
    sizes = generator.integers(2, 11, _WORDS)
    english = ["".join(generator.choice(letters, size, p=shares / shares.sum())) for size in sizes]
    english[:8] = ["the", "be", "to", "of", "and", "that", "have", "with"]
    sizes = generator.integers(1, 4, _WORDS)
    chinese = ["".join(map(chr, generator.integers(0x4E00, 0x6E00, size))) for size in sizes]
    chinese[:6] = list("的是了在不有")
    return english, chinese


class Words:
    """A vocabulary to draw from by Zipf's law; every fourteenth word ends a sentence."""

    def __init__(self, words: list[str], space: str, end: str) -> None:
        self._words, self._ends = np.array(words, object), np.array([word + end for word in words], object)
        self._space = space
        shares = 1.0 / np.arange(1, len(words) + 1) ** 1.15
        # A word is drawn by looking a random number up.
        self._table = np.searchsorted(np.cumsum(shares / shares.sum()), (np.arange(_DRAWS) + 0.5) / _DRAWS)

    def text(self, generator: np.random.Generator) -> str:
        count = int(np.clip(generator.lognormal(6.0, 0.8), 80, 20_000))
        drawn = self._table[generator.integers(0, _DRAWS, count)]
        words = self._words[drawn]
        words[13::14] = self._ends[drawn[13::14]]
        return self._space.join(words) + "\n"


def make(folder: Path, size: int) -> int:
    """Files of 256 MiB in ``folder``; returns their bytes."""
    generator = np.random.default_rng(0)
    words = vocabulary(generator)
    english, chinese = Words(words[0], " ", ".\n"), Words(words[1], "", "。\n")
    earlier: list[str] = []
    total = 0
    for number in range((size + _FILE_BYTES - 1) // _FILE_BYTES):
        file = folder / f"{number:03}.jsonl"
        with file.open("w", encoding="utf-8") as stream:
            while stream.tell() < min(_FILE_BYTES, size - total):
                draw = generator.random()
                if draw < 0.04 and earlier:
                    one = earlier[int(generator.integers(len(earlier)))]
                    one = one if draw < 0.02 else one + " One more sentence 又一句。"
                elif draw < 0.52:
                    one = english.text(generator)
                else:
                    one = chinese.text(generator)
                if draw > 0.999:
                    earlier.append(one)
                stream.write(json.dumps({"text": one}, ensure_ascii=False) + "\n")
        total += file.stat().st_size
    return total


def memory(process: int) -> int:
    """PSS in bytes of a process and those below it."""
    total, waiting = 0, [process]
    while waiting:
        one = waiting.pop()
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, StopIteration):
            continue
    return total


def stored(folder: Path) -> dict[str, int]:
    """Bytes below each folder of the intermediate results: what a cluster would send around."""
    sizes = {}
    for below in folder.glob("*"):
        with contextlib.suppress(OSError):
            sizes[below.name] = sum(file.stat().st_size for file in below.rglob("*") if file.is_file())
    return sizes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, help="where input and output go; by default a temporary one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*", help="section.key=value for weft data")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weft-bench-", dir=given.folder) as temporary:
        source, out = Path(temporary) / "in", Path(temporary) / "out"
        source.mkdir()
        size = make(source, int(given.gigabytes * 1e9))
        command = [sys.executable, "-m", "weft", "data", str(source), "--out", str(out), *given.settings]
        began = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        samples: list[tuple[float, int]] = []
        work: dict[str, int] = {}
        while process.poll() is None:
            samples.append((time.perf_counter() - began, memory(process.pid)))
            if len(samples) % 10 == 0:
                sizes = stored(out / ".work")
                work |= {name: max(size, work.get(name, 0)) for name, size in sizes.items()}
            time.sleep(0.5)
        wall = time.perf_counter() - began
        if process.returncode:
            sys.exit(process.stderr.read().decode() if process.stderr else "weft data failed.")
        record = json.loads((out / "documents" / "manifest.json").read_text())["figures"]
    peak = max(sample for _, sample in samples)
    stage, ends = {}, 0.0
    for name, seconds in record["seconds"].items():
        inside = [sample for at, sample in samples if ends <= at < ends + seconds]
        stage[name] = max(inside, default=0)
        ends += seconds
    stage["tokenise"] = max((sample for at, sample in samples if at >= ends), default=0)
    print(f"{size / 1e9:.2f} GB in {wall:.0f} s, {size / 1e6 / wall:.1f} MB/s; peak {peak / 1e9:.2f} GB")
    print("kept", record["kept"], "dropped", record["dropped"])
    for name, most in stage.items():
        print(f"{name:12} {record['seconds'].get(name, wall - ends):8.1f} s  {most / 1e9:6.2f} GB at most")
    print("on disk in between:", ", ".join(f"{name} {most / 1e6:.0f} MB" for name, most in work.items()))
    if given.json:
        figures = {
            "bytes": size,
            "wall": wall,
            "peak": peak,
            "stages": stage,
            "disk": work,
            "figures": record,
        }
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Text to tokens: Weft against datatrove, megabytes a second and core, on the same files.

    python bench/data_pipeline.py --english en.jsonl --chinese zh.jsonl --tokenizer FOLDER [--json FILE]

Both read JSON Lines (id, text), apply Gopher's rules (to Chinese: repetition; Weft adds its rules for
Chinese), take out personal data (datatrove knows e-mail and IP addresses, Weft more kinds), remove near
duplicates by MinHash and write token files with the same tokenizer. Weft also identifies languages, repairs
mojibake, removes exact duplicates, splits, and verifies near duplicates by their true similarity.

datatrove's word tokenizer is chosen by language, so it gets a process a file, the two side by side, one core
each; Weft runs once on two cores. A rate is bytes over core-seconds, start-up included: for Weft two times
the wall time of its command, so a core that idles counts; for datatrove the sum of the wall times of its
processes. Processor time stands beside it, because it says what a loaded machine hides. What both keep is
compared by id.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import environments

QUALITY = (
    'quality.english=["gopher_repetition","gopher_quality"]',
    'quality.chinese=["chinese_repetition","chinese"]',
)


def run_weft(files: list[Path], tokenizer: Path, folder: Path, cores: list[int]) -> dict[str, Any]:
    command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", "weft", "data"]
    command += [*map(str, files), "--out", str(folder), "--tokenizer", str(tokenizer), *QUALITY]
    began, before = time.perf_counter(), children()
    subprocess.run([*command, "--json", str(folder) + ".json"], check=True, capture_output=True)
    wall = time.perf_counter() - began
    record = json.loads(Path(str(folder) + ".json").read_text(encoding="utf-8"))
    return {
        "wall": wall,
        "core_seconds": wall * len(cores),
        "processor_seconds": children() - before,
        "stages": record["figures"]["seconds"],
    }


def children() -> float:
    """Processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def outcomes(files: list[Path], folder: Path) -> dict[str, str]:
    """By the id in the files: ``kept`` or the reason and value of Weft."""
    names: dict[str, str] = {}
    for file in files:
        offset = 0
        with file.open("rb") as stream:
            for line in stream:
                names[f"{file.name}#{offset}"] = json.loads(line)["id"]
                offset += len(line)
    found = {}
    for split in ("train", "valid", "test"):
        for part in (folder / "documents" / split).glob("*.parquet"):
            found |= {names[s]: "kept" for s in pq.read_table(part, columns=["source"])["source"].to_pylist()}
    for part in (folder / "dropped").glob("*.parquet"):
        for row in pq.read_table(part, columns=["source", "reason", "value"]).to_pylist():
            rule = (row["value"] or "").split(" ")[0] if row["reason"] in _SETS else ""
            found[names[row["source"]]] = f"{row['reason']} {rule}".strip()
    return found


_SETS = ("gopher_quality", "gopher_repetition", "chinese", "chinese_repetition")


def run_datatrove(files: dict[str, Path], tokenizer: Path, folder: Path, python: str) -> dict[str, Any]:
    """One process a language at the same time, each on a core of its own."""
    processes, before, began = [], children(), time.perf_counter()
    for core, (language, file) in enumerate(files.items()):
        home = folder / language
        (home / "in").mkdir(parents=True)
        shutil.copy(file, home / "in" / file.name)
        request = {
            "file": str(home / "in" / file.name),
            "language": language,
            "tokenizer": str(tokenizer / "tokenizer.json"),
            "folder": str(home),
        }
        (home / "request.json").write_text(json.dumps(request), encoding="utf-8")
        script = environments.PEERS / "datatrove_pipeline.py"
        command = ["taskset", "-c", str(core), python, str(script)]
        command += [str(home / "request.json"), str(home / "result.json")]
        log = (home / "log").open("wb")
        processes.append(
            subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"}
            )
        )
    ends: dict[int, float] = {}
    while len(ends) < len(processes):
        time.sleep(0.1)
        for process in processes:
            if process.poll() is not None and process.pid not in ends:
                ends[process.pid] = time.perf_counter() - began
    if any(process.returncode for process in processes):
        sys.exit(f"datatrove failed; see the log in {folder}.")
    results = {
        language: json.loads((folder / language / "result.json").read_text(encoding="utf-8"))
        for language in files
    }
    return {
        "core_seconds": sum(ends.values()),
        "processor_seconds": children() - before,
        "stages": {language: result["seconds"] for language, result in results.items()},
        "passed": {name for result in results.values() for name in result["passed"]},
        "kept": {name for result in results.values() for name in result["kept"]},
    }


def compare(ours: dict[str, str], theirs: dict[str, Any]) -> dict[str, Any]:
    """Documents by what both did with them; the differences by our reason and their stage."""
    table: Counter[str] = Counter()
    for name, verdict in ours.items():
        if name in theirs["kept"]:
            their = "kept"
        else:
            their = "near duplicate" if name in theirs["passed"] else "quality"
        table[f"Weft: {verdict:<45} datatrove: {their}"] += 1
    return dict(table.most_common())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--english", type=Path, required=True)
    parser.add_argument("--chinese", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a tokenizer.json")
    parser.add_argument("--environments", type=Path, default=environments.DEFAULT)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    files = {"eng": given.english, "zho": given.chinese}
    size = sum(file.stat().st_size for file in files.values())
    python = environments.python_of("datatrove", given.environments)
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as temporary:
        folder = Path(temporary)
        cores = sorted(os.sched_getaffinity(0))[:2]
        ours = run_weft(list(files.values()), given.tokenizer, folder / "weft", cores)
        verdicts = outcomes(list(files.values()), folder / "weft")
        theirs = run_datatrove(files, given.tokenizer, folder / "datatrove", python)
    rates = {"weft": size / 1e6 / ours["core_seconds"], "datatrove": size / 1e6 / theirs["core_seconds"]}
    print(f"{size / 1e6:.1f} MB of JSON Lines, {len(verdicts):,} documents")
    for name, run in (("weft", ours), ("datatrove", theirs)):
        print(
            f"{name:10} {run['core_seconds']:8.1f} core-seconds ({run['processor_seconds']:.1f} of processor "
            f"time) {rates[name]:8.3f} MB/s a core"
        )
        print(f"{'':10} {run['stages']}")
    print(f"ratio {rates['weft'] / rates['datatrove']:.1f}", end="; ")
    print(f"by processor time {theirs['processor_seconds'] / ours['processor_seconds']:.1f}")
    table = compare(verdicts, theirs)
    for line, count in table.items():
        print(f"{count:8,}  {line}")
    if given.json:
        record = {
            "bytes": size,
            "rates": rates,
            "core_seconds": {"weft": ours["core_seconds"], "datatrove": theirs["core_seconds"]},
            "processor_seconds": {
                "weft": ours["processor_seconds"],
                "datatrove": theirs["processor_seconds"],
            },
            "weft": ours["stages"],
            "datatrove": theirs["stages"],
            "documents": table,
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

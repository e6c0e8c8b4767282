"""Near duplicates: recall and precision on planted pairs, and on articles with a list of true pairs.

    python bench/near_duplicates.py --english en.jsonl --chinese zh.jsonl [--articles FOLDER] [--json FILE]

Planted: from each of the documents given a copy is made in which pieces are replaced, taken out or moved
until its true Jaccard similarity (of word 5-grams, a Han character being a word, computed here without
Weft) is what was drawn, from 0.4 to 1. Found is a pair of which the pipeline drops one as near duplicate.
Recall: found among the pairs of at least 0.8. Precision: pairs of at least 0.8 among all documents dropped.
``--articles``: a folder with ``articles_N.train`` and ``.truth`` (one document a line, the first word its
name; names of pairs), which are plagiarised articles, not pairs of a known similarity: found at 0.5.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_ALONE = ("personal.enabled=false", "language.identify=false", "junk.max_repeated_text=1.0")


def grams(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def jaccard(left: str, right: str) -> float:
    a, b = grams(left), grams(right)
    return len(a & b) / len(a | b)


def pieces(text: str) -> list[str]:
    """Words with the space behind them, Han characters alone: joined they are the text."""
    return re.findall(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+\s*|\s+", text)


def damaged(text: str, similarity: float, chosen: random.Random) -> str:
    """The text with edits until it is at most as similar as asked."""
    words = pieces(text)
    copy = text
    while jaccard(text, copy) > similarity:
        for _ in range(max(1, len(words) // 200)):
            place, kind = chosen.randrange(len(words)), chosen.randrange(3)
            if kind == 0:
                words[place] = chosen.choice(words)
            elif kind == 1 and len(words) > 50:
                del words[place]
            else:
                words.insert(place, words.pop(chosen.randrange(len(words))))
        copy = "".join(words)
    return copy


def documents(file: Path, limit: int) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            if limit and 1_000 < len(text) < 20_000:
                limit -= 1
                yield text[:6_000]


def dropped(lines: list[dict[str, str]], folder: Path, *settings: str) -> dict[str, str]:
    """Near duplicates of these documents by name, each with the name of the kept one."""
    folder.mkdir()
    source = folder / "documents.jsonl"
    names: dict[str, str] = {}
    offset = 0
    with source.open("wb") as stream:
        for line in lines:
            names[f"{source.name}#{offset}"] = line["id"]
            offset += stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    command = [sys.executable, "-m", "weft", "data", str(source), "--out", str(folder / "out")]
    command += ["tokenizer.vocab_size=512", *_ALONE, *settings]
    subprocess.run(command, check=True, capture_output=True)
    kept = {}
    for part in (folder / "out" / "documents").glob("*/*.parquet"):
        rows = pq.read_table(part, columns=["source", "id"])
        kept |= dict(zip(rows["id"].to_pylist(), rows["source"].to_pylist(), strict=True))
    found = {}
    for part in (folder / "out" / "dropped").glob("*.parquet"):
        for row in pq.read_table(part, columns=["source", "reason", "value"]).to_pylist():
            if row["reason"] in ("near_duplicate", "exact_duplicate"):
                target = kept.get(row["value"]) if row["reason"] == "near_duplicate" else row["value"]
                found[names[row["source"]]] = names[target]
    return found


def planted(files: dict[str, Path], count: int, folder: Path) -> dict[str, dict[str, float]]:
    chosen = random.Random(0)
    lines, truth = [], {}
    for language, file in files.items():
        originals = list(dict.fromkeys(documents(file, count)))
        for number, text in enumerate(originals):
            copy = damaged(text, chosen.uniform(0.4, 1.0), chosen)
            name = f"{language}/{number}"
            truth[name] = jaccard(text, copy)
            lines += [{"id": f"{name}/a", "text": text}, {"id": f"{name}/b", "text": copy}]
    chosen.shuffle(lines)
    texts = {line["id"]: line["text"] for line in lines}
    found = dropped(lines, folder / "planted")
    figures = {}
    for language in files:
        similar = {name for name, value in truth.items() if name.startswith(language) and value >= 0.8}
        pairs = {name: kept for name, kept in found.items() if name.startswith(language)}
        hits = {name[:-2] for name, kept in pairs.items() if name[:-2] == kept[:-2]}
        right = sum(jaccard(texts[name], texts[kept]) >= 0.8 for name, kept in pairs.items())
        figures[language] = {
            "pairs": sum(name.startswith(language) for name in truth),
            "similar": len(similar),
            "recall": len(similar & hits) / len(similar),
            "dropped": len(pairs),
            "precision": right / max(1, len(pairs)),
        }
    return figures


def articles(folder: Path, home: Path) -> dict[str, dict[str, int]]:
    figures = {}
    for truth in sorted(folder.glob("articles_*.truth")):
        train = truth.with_suffix(".train")
        packed = Path(f"{train}.zst")
        content = (
            subprocess.run(["zstd", "-dcq", str(packed)], check=True, capture_output=True).stdout
            if packed.exists()
            else train.read_bytes()
        )
        lines = []
        for line in content.decode("utf-8", "replace").splitlines():
            name, _, text = line.partition(" ")
            lines.append({"id": name, "text": text})
        pairs = {frozenset(line.split()) for line in truth.read_text().splitlines() if line.strip()}
        found = dropped(lines, home / truth.stem, "duplicates.jaccard=0.5")
        hits = {frozenset(pair) for pair in found.items()}
        figures[truth.stem] = {
            "documents": len(lines),
            "true pairs": len(pairs),
            "found": len(hits & pairs),
            "false": len(hits - pairs),
        }
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--english", type=Path, required=True)
    parser.add_argument("--chinese", type=Path, required=True)
    parser.add_argument("--count", type=int, default=600, help="documents of each language")
    parser.add_argument("--articles", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as temporary:
        home = Path(temporary)
        record: dict[str, object] = {
            "planted": planted({"en": given.english, "zh": given.chinese}, given.count, home)
        }
        if given.articles:
            record["articles"] = articles(given.articles, home)
    for name, rows in record.items():
        for part, figures in rows.items():  # type: ignore[attr-defined]
            print(f"{name} {part}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""English and Chinese documents in JSON Lines (id, text), the input of the benchmarks of data.

    python bench/corpus.py SETS OUT

SETS is a folder with public sets of text, each file as it is or compressed with zstd: ``gutenberg_classics``
(JSON Lines of whole books), ``wikitext2``, ``tinyshakespeare``; ``lctt_zh``, ``zh_techdocs``, ``zh_poetry``
(JSON Lines), ``zh_classic_novels``. Books, plays and novels are cut between paragraphs into pieces of about
8 kB, the size of a web page; WikiText into its articles. No text occurs twice that is not twice in the sets.
OUT gets ``en.jsonl`` and ``zh.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PIECE = 8_000
_HEADING = re.compile(r"^ = [^=].*[^=] = \n", re.MULTILINE)


def content(file: Path) -> str:
    if file.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", str(file)], check=True, capture_output=True).stdout.decode()
    return file.read_text(encoding="utf-8")


def files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file with the name it has when it is not compressed."""
    for file in sorted(folder.iterdir()):
        name = file.name.removesuffix(".zst")
        if name.endswith((".txt", ".jsonl")):
            yield file, name


def pieces(text: str) -> Iterator[str]:
    """The text cut between lines, each piece as soon as it has 8 kB."""
    part: list[str] = []
    size = 0
    for line in text.replace("\r\n", "\n").splitlines(keepends=True):
        part.append(line)
        size += len(line.encode())
        if size >= _PIECE and (line == "\n" or size >= 1.5 * _PIECE):
            yield "".join(part)
            part, size = [], 0
    if part:
        yield "".join(part)


def records(file: Path) -> Iterator[str]:
    # Not splitlines: a text may hold line ends that are not those of JSON Lines.
    for line in content(file).split("\n"):
        if line.strip():
            yield json.loads(line)["text"]


def english(sets: Path) -> Iterator[tuple[str, str]]:
    for file, name in files(sets / "gutenberg_classics"):
        for number, book in enumerate(records(file)):
            yield from ((f"{name}/{number}/{part}", text) for part, text in enumerate(pieces(book)))
    for file, name in files(sets / "wikitext2"):
        for number, article in enumerate(_HEADING.split(content(file))):
            yield f"{name}/{number}", article
    for file, name in files(sets / "tinyshakespeare"):
        yield from ((f"{name}/{part}", text) for part, text in enumerate(pieces(content(file))))


def chinese(sets: Path) -> Iterator[tuple[str, str]]:
    for folder in ("lctt_zh", "zh_techdocs", "zh_poetry"):
        for file, name in files(sets / folder):
            yield from ((f"{folder}/{name}/{number}", text) for number, text in enumerate(records(file)))
    for file, name in files(sets / "zh_classic_novels"):
        yield from ((f"{name}/{part}", text) for part, text in enumerate(pieces(content(file))))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name, documents in (("en", english(given.sets)), ("zh", chinese(given.sets))):
        file = given.out / f"{name}.jsonl"
        count = 0
        with file.open("w", encoding="utf-8", newline="\n") as stream:
            for identifier, text in documents:
                if text.strip():
                    stream.write(json.dumps({"id": identifier, "text": text}, ensure_ascii=False) + "\n")
                    count += 1
        print(f"{file}: {count:,} documents, {file.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

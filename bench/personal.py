"""How well and how fast personal data is found, beside Presidio.

    python bench/personal.py --clean FOLDER --pii synth_dataset_v2.json

Three questions, one thread, the same texts for both:

1. Planted values with valid check digits, Han characters on both sides: how many are found whole?
2. Text without personal data (``--clean``: .txt, .jsonl, also .zst below a folder): hits per 10,000
   characters, every one printed, because some are true (a kernel mailing list is an e-mail address).
3. Labelled English sentences of presidio-research (``--pii``): precision, recall and F1 of exact spans, for
   the kinds that both know.

Presidio runs as released in an environment of its own, made on first use; it has all its English pattern
recognisers but no spaCy model, which is not on the registry, so its context words work on words as they
stand. That costs it names (left out here), and perhaps some context. In question 2 it gets a sample, because
it is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import venv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from environments import DEFAULT, PEERS
from weft.data.personal.checksums import luhn_valid, resident_check
from weft.data.personal.scan import PatternFinder
from weft.data.personal.span import Span

SOURCE = Path(__file__).parent.parent / "src"
KINDS = {
    "CREDIT_CARD": "bank_card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "US_SSN": "us_ssn",
}
DOCUMENT = 20_000
SAMPLE = 100_000
Found = tuple[list[Span], float]


def main() -> None:
    """Print all figures; ``--json`` keeps them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clean", type=Path, help="folder of text without personal data")
    parser.add_argument("--pii", type=Path, help="JSON list of sentences with labelled spans, perhaps .zst")
    parser.add_argument("--environments", type=Path, default=DEFAULT)
    parser.add_argument("--no-presidio", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    python = None if options.no_presidio else environment(options.environments)
    figures: dict[str, Any] = {"planted": planted(python)}
    if options.clean:
        figures["clean"] = clean(options.clean, python)
    if options.pii:
        figures["labelled"] = labelled(options.pii, python)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False), encoding="utf-8")


def environment(folder: Path) -> str:
    """The Python with Presidio in ``folder/presidio``, made there first when it does not work."""
    home = folder.expanduser().absolute() / "presidio"
    python = home / "bin" / "python"
    probe = [str(python), "-c", "import presidio_analyzer, spacy"]
    if not python.exists() or subprocess.run(probe, capture_output=True, check=False).returncode:
        print(f"making the environment {home} ...", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=home.exists())
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, "-r", str(PEERS / "constraints-presidio.txt")], check=False).returncode:
            sys.exit("pip could not install Presidio; its message is above. Check the network and the index.")
    return str(python)


def ours(texts: list[str]) -> Found:
    """Spans and processor seconds, the best of three runs."""
    finder, seconds = PatternFinder(), float("inf")
    for _ in range(3):
        began = time.process_time()
        spans = finder.find(texts)
        seconds = min(seconds, time.process_time() - began)
    return spans, seconds


def presidio(python: str, texts: list[str], min_score: float = 0.5) -> Found:
    """The same of Presidio, one run."""
    outcome = subprocess.run(
        [python, str(PEERS / "presidio_find.py")],
        input=json.dumps({"texts": texts, "min_score": min_score}),
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(outcome.stdout)
    return [Span(*span) for span in found["spans"]], found["seconds"]


def planted(python: str | None) -> dict[str, Any]:
    """Share of planted values that are found, by kind."""
    texts, truth = plant(random.Random(1), 1000)
    figures = {}
    for name, (spans, _) in systems(python, texts).items():
        hits = Counter(span.kind for span in truth & set(spans))
        figures[name] = {
            kind: hits[kind] / count for kind, count in Counter(span.kind for span in truth).items()
        }
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in figures[name].items())
        print(f"planted beside Han characters, found whole by {name}: {shares}")
    return figures


def plant(chosen: random.Random, each: int) -> tuple[list[str], set[Span]]:
    """Texts with one value each, ``each`` times every kind, and the spans of the values."""
    texts, truth = [], set()
    for kind, make in (("resident_id", resident), ("phone", phone), ("bank_card", card), ("email", email)):
        for _ in range(each):
            value = make(chosen)
            left = "".join(chosen.choices("他的号码邮箱卡是：，（请联系在为", k=chosen.randint(1, 12)))
            truth.add(Span(len(texts), len(left), len(left) + len(value), kind, value))
            texts.append(left + value + "".join(chosen.choices("。，）请的谢联系", k=6)))
    return texts, truth


def resident(chosen: random.Random) -> str:
    """A resident id with the right check digit."""
    place = chosen.choice(["110105", "310101", "440305", "510104", "659001", "820000"])
    born = f"{chosen.randint(1930, 2023)}{chosen.randint(1, 12):02}{chosen.randint(1, 28):02}"
    body = f"{place}{born}{chosen.randint(0, 999):03}"
    return body + resident_check(body)


def phone(chosen: random.Random) -> str:
    """A mobile number of mainland China, in one of its written forms."""
    head = chosen.choice(["130", "138", "147", "152", "166", "175", "186", "199"])
    forms = ["{}{}{}", "{} {} {}", "{}-{}-{}", "+86{}{}{}", "+86 {} {} {}"]
    return chosen.choice(forms).format(head, f"{chosen.randrange(10**4):04}", f"{chosen.randrange(10**4):04}")


def card(chosen: random.Random) -> str:
    """A card number with the right check digit, plain or in groups of four."""
    head, length = chosen.choice([("62", 16), ("62", 19), ("4", 16), ("53", 16)])
    body = head + "".join(chosen.choices("0123456789", k=length - 1 - len(head)))
    number = next(body + digit for digit in "0123456789" if luhn_valid(body + digit))
    return chosen.choice(["", " ", "-"]).join(number[i : i + 4] for i in range(0, length, 4))


def email(chosen: random.Random) -> str:
    """A mail address."""
    name = "".join(chosen.choices("abcdefghijk_.0123456789", k=8)).replace("..", ".x").strip("._")
    return f"a{name}@{chosen.choice(['qq.com', '163.com', 'mail.tsinghua.edu.cn', 'gmail.com'])}"


def clean(folder: Path, python: str | None) -> dict[str, Any]:
    """Hits per 10,000 characters of text that should have none, and the speed."""
    figures = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        texts = list(documents(file))
        if not texts:
            continue
        name = str(file.relative_to(folder))
        figures[name] = {"weft": rate(name, "weft", texts, ours(texts), show=True)}
        if python:
            sample = list(head(texts, SAMPLE))
            figures[name]["presidio"] = rate(name, "presidio", sample, presidio(python, sample), show=False)
    return figures


def rate(file: str, name: str, texts: list[str], found: Found, show: bool) -> dict[str, Any]:
    """Print and return hits by kind and per 10,000 characters, and MB/s."""
    spans, seconds = found
    characters, size = sum(map(len, texts)), sum(len(text.encode()) for text in texts)
    figure = {
        "characters": characters,
        "hits": dict(Counter(span.kind for span in spans)),
        "per_10000": len(spans) / characters * 10_000,
        "megabytes_a_second": size / seconds / 1e6,
    }
    print(
        f"{file}, {name}: {characters} characters, {figure['megabytes_a_second']:.2f} MB/s, "
        f"{figure['per_10000']:.3f} hits per 10,000 {figure['hits']}"
    )
    for span in spans if show else ():
        context = texts[span.document][max(0, span.start - 20) : span.end + 10]
        print(f"    {span.kind}\t{span.text!r}\t{context!r}")
    return figure


def documents(file: Path) -> Iterator[str]:
    """Records of JSON lines, or pieces of a text; nothing of other files."""
    name = file.name.removesuffix(".zst")
    if not name.endswith((".txt", ".jsonl", ".py")):
        return
    with pa.input_stream(str(file), compression="zstd" if file.suffix == ".zst" else None) as stream:
        text = stream.read().decode("utf-8", "replace")
    if name.endswith(".jsonl"):
        for line in text.splitlines():
            record = json.loads(line)
            yield record.get("text") or "\n".join(str(value) for value in record.values())
    else:
        yield from (text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT))


def head(texts: list[str], characters: int) -> Iterator[str]:
    """The first texts, about so many characters of them."""
    for text in texts:
        if characters <= 0:
            return
        yield text[:DOCUMENT]
        characters -= len(text[:DOCUMENT])


def labelled(file: Path, python: str | None) -> dict[str, Any]:
    """Precision, recall and F1 of exact spans, and MB/s."""
    with pa.input_stream(str(file), compression="zstd" if file.suffix == ".zst" else None) as stream:
        rows = json.loads(stream.read())
    texts = [row["full_text"] for row in rows]
    truth = {
        (number, span["start_position"], span["end_position"], KINDS[span["entity_type"]])
        for number, row in enumerate(rows)
        for span in row["spans"]
        if span["entity_type"] in KINDS
    }
    found = systems(python, texts)
    if python:
        found["presidio, any score"] = presidio(python, texts, min_score=0.0)
    figures = {}
    for name, (spans, seconds) in found.items():
        got = {tuple(span[:4]) for span in spans if span.kind in KINDS.values()}
        figures[name] = {
            kind: scores(
                {s for s in truth if kind in ("all", s[3])}, {s for s in got if kind in ("all", s[3])}
            )
            for kind in ("all", *KINDS.values())
        }
        print(f"{file.name}, {name}: {sum(len(text.encode()) for text in texts) / seconds / 1e6:.2f} MB/s")
        for kind, (precision, recall, f1) in figures[name].items():
            print(f"    {kind:12} precision {precision:.3f}  recall {recall:.3f}  F1 {f1:.3f}")
    return figures


def scores(truth: set[Any], got: set[Any]) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where there is nothing to divide by."""
    common = len(truth & got)
    return (
        common / max(1, len(got)),
        common / max(1, len(truth)),
        2 * common / max(1, len(truth) + len(got)),
    )


def systems(python: str | None, texts: list[str]) -> dict[str, Found]:
    """What each finds in the texts."""
    found = {"weft": ours(texts)}
    if python:
        found["presidio"] = presidio(python, texts)
    return found


if __name__ == "__main__":
    main()

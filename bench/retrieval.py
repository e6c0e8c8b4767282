"""Rankings of BM25, dense and hybrid search on a folder of graded queries, with 95 % intervals.

    python bench/retrieval.py FOLDER [--queries FILE --grades FILE] [--whole] [--foreign FOLDER] [--json FILE]

FOLDER is laid out as BEIR's (arXiv:2104.08663): corpus.jsonl or corpus.jsonl.zst, queries and grades; or it
is Cranfield's (cran.all.1400.zst, cran.qry, cranqrel), whose grades 1 to 4 all count as relevant and whose
queries are numbered by their place. A document ranks by its best passage. Without --whole passages are cut
as weft index cuts them; with it every document is one passage. The peer is the package rank_bm25 on the
same terms. --foreign names such a folder about something else: how many of its questions are refused.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from weft import retrieval
from weft.eval.compare import paired, ratio, wilson
from weft.eval.metrics.ranking import ndcg, recall, reciprocal_rank
from weft.retrieval.counts import TITLE_WEIGHT, terms_of

Grades = dict[str, dict[str, float]]
Ranker = Callable[[str], np.ndarray]
METRICS = {
    "nDCG@10": lambda ranked, grades: ndcg(ranked, grades, 10),
    "MRR@10": lambda ranked, grades: reciprocal_rank(ranked[:10], grades),
    "recall@10": lambda ranked, grades: recall(ranked, grades, 10),
    "recall@100": lambda ranked, grades: recall(ranked, grades, 100),
}
RELEVANT = 5
"""Cranfield's grades below this one are relevant (cranqrel.readme); -1 stands for 1 in some copies."""


def beir(folder: Path, queries: str, grades: str) -> tuple[Path, dict[str, str], Grades]:
    """The corpus file, the texts of queries and the grades of documents by query."""
    corpus = next(path for path in (folder / "corpus.jsonl", folder / "corpus.jsonl.zst") if path.exists())
    texts = {
        str(row["_id"]): row["text"] for row in map(json.loads, (folder / queries).open(encoding="utf-8"))
    }
    found: Grades = {}
    for line in (folder / grades).read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        found.setdefault(query, {})[document] = float(grade)
    return corpus, texts, found


def cranfield(folder: Path, scratch: Path) -> tuple[Path, dict[str, str], Grades]:
    """The same of the SMART files; the corpus is written to ``scratch`` as JSON Lines."""
    with pa.input_stream(str(folder / "cran.all.1400.zst"), compression="zstd") as stream:
        content = stream.read().decode("utf-8", "replace")
    corpus = scratch / "cranfield.jsonl"
    with corpus.open("w", encoding="utf-8") as out:
        for record in re.split(r"(?m)^\.I ", content)[1:]:
            number, title, body = re.match(r"(\d+)\n\.T\n(.*?)\n?\.A\n.*?\.W\n(.*)", record, re.S).groups()
            row = {"_id": number, "title": " ".join(title.split()), "text": body.strip()}
            # Two of the 1,400 abstracts are empty.
            out.write(json.dumps({**row, "text": row["text"] or row["title"] or "-"}) + "\n")
    queries = re.split(r"(?m)^\.I .*\n\.W\n", (folder / "cran.qry").read_text())[1:]
    texts = {str(place): " ".join(query.split()) for place, query in enumerate(queries, 1)}
    found: Grades = {}
    for line in (folder / "cranqrel").read_text().splitlines():
        query, document, grade = line.split()
        if int(grade) < RELEVANT:
            found.setdefault(query, {})[document] = 1.0
    return corpus, texts, found


def ranked(scores: np.ndarray, owners: np.ndarray, names: list[str], count: int = 100) -> list[str]:
    """The best ``count`` documents, each by its best passage."""
    best = np.zeros(len(names))
    np.maximum.at(best, owners, scores)
    order = np.argsort(-best, kind="stable")[:count]
    return [names[number] for number in order if best[number] > 0]


def peer(index: retrieval.Index) -> Ranker | None:
    """rank_bm25 on the terms of the same passages, titles as often as ours."""
    try:
        from rank_bm25 import BM25Okapi
    except ImportError:
        return None
    rows = [terms_of(one.text) + TITLE_WEIGHT * terms_of(one.title) for one in index.passages]
    model = BM25Okapi(rows, k1=1.2, b=0.75)
    return lambda query: model.get_scores(terms_of(query))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", default="queries_train.jsonl")
    parser.add_argument("--grades", default="qrels_train.tsv")
    parser.add_argument("--whole", action="store_true", help="one passage a document")
    parser.add_argument("--encoder", default="", help="a checkpoint whose vectors are measured")
    parser.add_argument("--foreign", type=Path, help="questions that have no answer here")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        corpus, texts, grades = read(given.folder, given, Path(scratch))
        size = {"size": 1_000_000} if given.whole else {}
        settings = retrieval.IndexConfig(encoder=given.encoder, **size)
        started = time.perf_counter()
        index = retrieval.index(corpus, Path(scratch) / "index", settings)
        built = time.perf_counter() - started
        record = measure(index, texts, grades)
        if given.foreign:
            _, foreign, _ = read(given.foreign, given, Path(scratch))
            record["answers"] = answers(index, texts, grades, foreign)
    record = {"folder": given.folder.name, "build_seconds": built, "figures": index.figures, **record}
    show(record)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n")


def read(folder: Path, given: argparse.Namespace, scratch: Path) -> tuple[Path, dict[str, str], Grades]:
    """The corpus, queries and grades of a folder of either kind."""
    if (folder / "cran.qry").exists():
        return cranfield(folder, scratch)
    return beir(folder, given.queries, given.grades)


def answers(index: retrieval.Index, texts: dict[str, str], grades: Grades, foreign: dict[str, str]) -> dict:
    """Shares, with Wilson's intervals, of what weft ask says to questions with and without an answer."""
    asked = [query for query in texts if any(grade > 0 for grade in grades.get(query, {}).values())]
    found = {query: index.ask(texts[query]) for query in asked}
    answered = [query for query in asked if found[query].found]
    right = sum(
        any(grades[query].get(hit.document, 0) > 0 for hit in found[query].citations) for query in answered
    )
    invented = sum(index.ask(text).found for text in foreign.values())
    return {
        "answered": asdict(wilson(len(answered), len(asked))),
        "of these citing a relevant document": asdict(wilson(right, max(1, len(answered)))),
        "answered of foreign questions": asdict(wilson(invented, len(foreign))),
    }


def measure(index: retrieval.Index, texts: dict[str, str], grades: Grades) -> dict:
    """Figures of every way on the queries that have a relevant document."""
    asked = [query for query in texts if any(grade > 0 for grade in grades.get(query, {}).values())]
    names = list(dict.fromkeys(one.document for one in index.passages))
    place = {name: number for number, name in enumerate(names)}
    owners = np.array([place[one.document] for one in index.passages])
    rankers: dict[str, Ranker] = {
        how: lambda query, how=how: index.scores(query, how) for how in ("bm25", "dense", "hybrid")
    }
    other = peer(index)
    if other:
        rankers["rank_bm25"] = other
    ones = np.ones(len(asked))
    values: dict[str, dict[str, np.ndarray]] = {}
    ways = {}
    for way, ranker in rankers.items():
        ranker(texts[asked[0]])
        started = time.perf_counter()
        scores = [ranker(texts[query]) for query in asked]
        seconds = time.perf_counter() - started
        lists = [ranked(one, owners, names) for one in scores]
        values[way] = {
            metric: np.array([of(got, grades[query]) for got, query in zip(lists, asked, strict=True)])
            for metric, of in METRICS.items()
        }
        ways[way] = {metric: asdict(ratio(found, ones)) for metric, found in values[way].items()}
        ways[way]["milliseconds a query"] = 1000 * seconds / len(asked)
    return {
        "queries": len(asked),
        "ways": ways,
        "against bm25": {
            way: asdict(paired(values[way]["nDCG@10"], values["bm25"]["nDCG@10"], ones))
            for way in values
            if way != "bm25"
        },
    }


def show(record: dict) -> None:
    """The figures for people."""
    figures = record["figures"]
    print(
        f"{record['folder']}: {figures['documents']:,} documents, {figures['passages']:,} passages, "
        f"{record['queries']:,} queries; built in {record['build_seconds']:.1f} s"
    )
    for way, found in record["ways"].items():
        cells = [
            f"{metric} {one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f})"
            for metric, one in ((metric, found[metric]) for metric in METRICS)
        ]
        print(f"  {way:<10}", "  ".join(cells), f" {found['milliseconds a query']:.2f} ms a query")
    for name, one in record.get("answers", {}).items():
        print(f"  {name}: {one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})")
    for way, found in record["against bm25"].items():
        one = found["difference"]
        print(
            f"  {way} minus bm25, nDCG@10: {one['value']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}), "
            f"below in {100 * found['first_lower']:.0f} % of draws"
        )


if __name__ == "__main__":
    main()

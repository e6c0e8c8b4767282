"""Looking at a data folder without the engine: counts against plain loops, draws, clusters, selections."""

from __future__ import annotations

import hashlib
import math
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core import manifest
from weft.core.errors import DataError, UsageError
from weft.data import parts, tally
from weft.data.clusters import find_clusters, keys, resolve
from weft.data.passages import read_passages
from weft.data.sample import Sample
from weft.data.schema import SPLITS
from weft.data.selection import Selection, excerpt, select
from weft.data.survey import folders, survey
from weft.tokenizer import Tokenizer

Row = dict[str, Any]
WORDS = ("春眠不觉晓", "处处闻啼鸟", "river", "mountain", "花落知多少", "letter")


def name(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def row(source: str, text: str | None, reason: str | None = None, value: str | None = None) -> Row:
    size = len((text or "").encode())
    known = {"id": name(text or source), "source": source, "kind": "text", "bytes": size, "text": text}
    known["language"] = None if text is None else "han" if "春" in text else "latin"
    return known | ({"reason": reason, "value": value} if reason else {})


def make_folder(folder: Path, kept: dict[str, list[Row]], dropped: list[Row], group: int = 7) -> Path:
    """A finished documents stage with small row groups, several parts, and what was dropped."""
    types = {"bytes": pa.int64()}
    columns = ["id", "source", "kind", "language", "bytes", "text"]
    figures: dict[str, Any] = {"splits": {}, "dropped": {}}

    def write(rows: list[Row], names: list[str], target: Path) -> list[str]:
        target.mkdir(parents=True)
        schema = pa.schema([(name, types.get(name, pa.large_string())) for name in names])
        halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        for number, half in enumerate(halves):
            table = pa.Table.from_pylist([{n: r[n] for n in names} for r in half], schema)
            pq.write_table(table, target / f"part-{number:05d}.parquet", row_group_size=group)
        return [f"{target.name}/part-{number:05d}.parquet" for number in range(2)]

    outputs = [out for s in SPLITS for out in write(kept.get(s, []), columns, folder / "documents" / s)]
    write(dropped, [*columns, "reason", "value"], folder / "dropped")
    for split in SPLITS:
        rows = kept.get(split, [])
        figures["splits"][split] = {"documents": len(rows), "bytes": sum(r["bytes"] for r in rows)}
    figures["dropped"] = {reason: {} for reason in {r["reason"] for r in dropped}}
    manifest.write(
        folder / "documents",
        command="documents",
        config="",
        inputs={},
        figures=figures,
        outputs=tuple(outputs),
    )
    return folder


@pytest.fixture(scope="module")
def corpus() -> tuple[dict[str, list[Row]], list[Row]]:
    chosen = random.Random(3)
    texts = list(
        dict.fromkeys(" ".join(chosen.choices(WORDS, k=chosen.randrange(1, 60))) for _ in range(120))
    )
    places = ("web/zh/a{}.txt", "web/b{}.txt", "books.jsonl#{}", "web/big/deep/c{}.md")
    rows = [row(chosen.choice(places).format(number), text) for number, text in enumerate(texts)]
    kept = {"train": rows[:70], "valid": rows[70:75], "test": rows[75:90]}
    dropped = [row(f"bin/x{number}.png", None, "binary", ".png") for number in range(5)]
    dropped += [row(f"web/e{number}.txt", t["text"], "too_short", "9") for number, t in enumerate(rows[90:])]
    # A cluster of four: a near duplicate of kept text, two copies of that, and a copy of the kept one.
    near, first = "春眠不觉晓 river", rows[0]
    dropped.append(row("web/near.txt", near, "near_duplicate", first["id"]))
    dropped += [row(f"web/n{number}.txt", near, "exact_duplicate", "web/near.txt") for number in range(2)]
    dropped.append(row("web/copy.txt", first["text"], "exact_duplicate", first["source"]))
    second = rows[1]
    dropped.append(row("web/twin.txt", second["text"], "exact_duplicate", second["source"]))
    chosen.shuffle(dropped)
    return kept, dropped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: tuple[dict[str, list[Row]], list[Row]]) -> Path:
    return make_folder(tmp_path_factory.mktemp("survey"), *corpus)


def plain_folder(source: str) -> str:
    """The plain twin of ``folders``."""
    path, mark, _ = source.partition("#")
    inside = path.split("/") if mark else path.split("/")[:-1]
    return "/".join(inside[:2]) or path


def test_a_survey_counts_what_plain_loops_count(
    folder: Path, corpus: tuple[dict[str, list[Row]], list[Row]]
) -> None:
    kept, dropped = corpus
    rows = [r for split in SPLITS for r in kept.get(split, [])]
    found = survey(folder, samples=3)
    assert found.kept.documents == len(rows) and found.kept.bytes == sum(r["bytes"] for r in rows)
    assert {s: c.documents for s, c in found.splits.items()} == {s: len(kept[s]) for s in SPLITS}
    for got, key in (
        (found.languages, lambda r: r["language"]),
        (found.folders, lambda r: plain_folder(r["source"])),
    ):
        assert {n: c.documents for n, c in got.items()} == Counter(map(key, rows))
        sizes: Counter[str] = Counter()
        for r in rows:
            sizes[key(r)] += r["bytes"]
        assert {n: c.bytes for n, c in got.items()} == sizes
        assert list(got) == sorted(got, key=lambda n: (-sizes[n], n))
    assert {n: c.documents for n, c in found.dropped.items()} == Counter(r["reason"] for r in dropped)
    assert [c.documents for c in found.dropped.values()] == sorted(
        (c.documents for c in found.dropped.values()), reverse=True
    )
    bins = Counter(int(math.log2(max(1, r["bytes"]))) for r in rows)
    assert {int(k): int(n) for k, n in enumerate(found.lengths) if n} == bins
    assert found.tokens == {} and found.tokens_by_language == {}


def test_folders_of_sources() -> None:
    names = ["a/b/c.txt", "a/b/d/c.txt", "a/c.txt", "c.txt", "a.jsonl#7", "a/b.jsonl#7", "a/b/c.jsonl#7",
             "经/纬/文.txt", "a/b.zip#in/c.txt"]  # fmt: skip
    assert folders(pa.array(names)).to_pylist() == [plain_folder(n) for n in names]
    assert folders(pa.array(["s3://box/a/b/c.txt", "line\nend/b/c.txt"])).to_pylist() == [
        "s3://box/a",
        "line\nend/b",
    ]


def test_samples_are_drawn_by_seed_from_the_right_rows(
    folder: Path, corpus: tuple[dict[str, list[Row]], list[Row]]
) -> None:
    kept, dropped = corpus
    first, again, other = (survey(folder, samples=3, characters=20, seed=s) for s in (0, 0, 1))
    assert first.samples_kept == again.samples_kept and first.samples_dropped == again.samples_dropped
    assert first.samples_kept != other.samples_kept
    texts = {r["source"]: r["text"] for rows in kept.values() for r in rows}
    assert len(first.samples_kept) == 6
    assert all(texts[drawn.source][:20] == drawn.text for drawn in first.samples_kept)
    by_source = {r["source"]: r for r in dropped}
    for reason, drawn in first.samples_dropped.items():
        assert len(drawn) == min(3, sum(r["reason"] == reason for r in dropped))
        assert all(by_source[d.source]["reason"] == reason for d in drawn)
        assert all(by_source[d.source]["value"] == d.value for d in drawn)
    assert all(drawn.text is None for drawn in first.samples_dropped["binary"])


def test_every_row_is_as_likely_to_be_drawn() -> None:
    table = pa.table({"id": ["x"] * 10})
    counts: Counter[tuple[int, int]] = Counter()
    for seed in range(2000):
        sample = Sample(4, seed)
        for number in range(3):
            sample.add(parts.Group(Path("f"), number, table), np.arange(10))
        assert len(set(sample.places)) == 4
        counts.update((place.group, place.row) for place in sample.places)
    # 2,000 draws of 4 of 30: 267 each, standard deviation 15.
    assert len(counts) == 30 and all(190 < count < 345 for count in counts.values())
    nothing = Sample(0)
    nothing.add(parts.Group(Path("f"), 0, table), np.arange(10))
    assert nothing.places == []


def test_clusters_join_copies_of_copies(folder: Path) -> None:
    found = find_clusters(folder, largest=10, members=3)
    assert (found.number, found.duplicates) == (2, 5)
    largest, pair = found.largest
    assert largest.size == 5 and len(largest.members) == 3
    assert pair.size == 2 and pair.members == [("web/twin.txt", "exact_duplicate")]
    assert find_clusters(folder, largest=1).largest[0].size == 5
    sources = {source for source, _ in find_clusters(folder).largest[0].members}
    assert sources == {"web/near.txt", "web/n0.txt", "web/n1.txt", "web/copy.txt"}


def test_clusters_name_what_was_kept(folder: Path, corpus: tuple[dict[str, list[Row]], list[Row]]) -> None:
    kept, _ = corpus
    largest, pair = find_clusters(folder).largest
    assert (largest.kept, pair.kept) == (kept["train"][0]["source"], kept["train"][1]["source"])


def test_keys_of_ids_agree_with_the_plain_way() -> None:
    ids = [name(str(number)) for number in range(9)]
    expected = [int(i[:16], 16) ^ int(i[16:], 16) for i in ids]
    column = pa.chunked_array([pa.array(ids[:4]), pa.array(ids[4:])])
    assert keys(column).tolist() == expected
    assert keys(column.slice(3)).tolist() == expected[3:]
    mixed = pa.chunked_array([pa.array([ids[0], "一篇/文档.txt", None, "z" * 32])], type=pa.string())
    assert keys(mixed)[0] == expected[0] and len(set(keys(mixed).tolist())) == 4
    assert keys(pa.chunked_array([[]], type=pa.string())).tolist() == []
    own, kept = np.array([1, 2, 3, 3], np.uint64), np.array([1, 3, 9, 3], np.uint64)
    near = np.array([False, True, True, False])
    assert resolve(own, kept, near).tolist() == [1, 3, 9, 9]


def test_a_tally_with_too_many_names_keeps_its_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_LIMIT", 10)
    counts = tally.Tally()
    for start in range(0, 40, 4):
        names = [f"n{number}" for number in range(start, start + 4)] + [None, "big"]
        counts.add(pa.array(names), pa.array([1, 1, 1, 1, 2, 1000]))
    found = counts.counts()
    assert len(found) <= 11 and next(iter(found)) == "big" and list(found)[-1] == tally.OTHER
    assert found["big"] == tally.Count(10, 10_000) and found["unknown"].documents == 10
    assert sum(c.documents for c in found.values()) == 60 and sum(c.bytes for c in found.values()) == 10_060


@pytest.mark.parametrize("wanted", [
    Selection(), Selection(split="test"), Selection(dropped="too_short"), Selection(dropped="all"),
    Selection(grep="春眠"), Selection(dropped="all", grep="river"), Selection(dropped="binary"),
])  # fmt: skip
def test_selections_agree_with_a_plain_filter(
    folder: Path, corpus: tuple[dict[str, list[Row]], list[Row]], wanted: Selection
) -> None:
    kept, dropped = corpus
    rows = dropped if wanted.dropped else [r for s in SPLITS if wanted.split in (None, s) for r in kept[s]]
    rows = [r for r in rows if wanted.dropped in (None, "all", r.get("reason"))]
    rows = [r for r in rows if wanted.grep is None or wanted.grep in (r["text"] or "")]
    got = list(select(folder, wanted, None))
    assert [(s.source, s.text, s.reason) for s in got] == [
        (r["source"], r["text"], r.get("reason")) for r in rows[: wanted.limit]
    ]
    assert not any(shown.cut for shown in got)


def test_texts_are_cut_around_what_was_looked_for(folder: Path) -> None:
    text = "甲" * 500 + "大海" + "乙" * 500
    part, cut = excerpt(text, "大海", 100)
    assert cut and len(part) == 100 and part.index("大海") == 25
    assert excerpt(text, None, 100) == ("甲" * 100, True)
    assert excerpt("大海", "大海", 100) == ("大海", False)
    assert all(len(s.text or "") <= 9 for s in select(folder, Selection(limit=50), 9))
    assert len(list(select(folder, Selection(limit=3), 9))) == 3


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"limit": 0}, "give at least 1"),
        ({"grep": ""}, "leave out --grep"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"split": "test", "dropped": "binary"}, "not both"),
    ],
)
def test_impossible_selections_are_one_sentence(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Selection(**wanted)


def test_folders_that_cannot_be_looked_at(folder: Path, tmp_path: Path) -> None:
    for look in (survey, lambda f: list(select(f, Selection(), None))):
        with pytest.raises(DataError, match="no finished documents"):
            look(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'binary'"):
        list(select(folder, Selection(dropped="binari"), None))
    empty = make_folder(tmp_path / "empty", {"train": [row("a.txt", "春")]}, [])
    with pytest.raises(UsageError, match="Nothing was dropped"):
        list(select(empty, Selection(dropped="binary"), None))
    assert list(select(empty, Selection(dropped="all"), None)) == []
    found = survey(empty)
    assert found.dropped == {} and found.clusters.number == 0 and len(found.samples_kept) == 1
    file = empty / "documents" / "train" / "part-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    for look in (survey, lambda f: list(select(f, Selection(), None))):
        with pytest.raises(DataError, match="damaged") as caught:
            look(empty)
        assert "\n" not in str(caught.value)
    pq.write_table(pa.table({"id": ["a"]}), file)
    with pytest.raises(DataError, match="have no column"):
        survey(empty)


def test_passages_of_a_data_folder_and_of_plain_text(folder: Path, tmp_path: Path) -> None:
    found = read_passages(folder, "test", 1 << 20)
    assert set(found) == {"han", "latin"} and sum(map(len, found.values())) == 15
    assert sum(map(len, read_passages(folder, "test", 1).values())) == 1
    (tmp_path / "诗.txt").write_text("春眠不觉晓，处处闻啼鸟。\n" * 900 + "It was the best of times.\n" * 900)
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.png").write_bytes(b"\0\1")
    found = read_passages(tmp_path, "test", 1 << 20)
    assert set(found) == {"han", "latin", "python"}
    whole = "".join([*found["han"], *found["latin"]])
    assert whole == (tmp_path / "诗.txt").read_text() and len(found["han"]) > 2
    part = read_passages(tmp_path / "诗.txt", "test", 1000)
    assert "�" not in part["han"][0] and len(part["han"][0].encode()) <= 1000


def test_passages_that_cannot_be_had(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        read_passages(folder, "test", 0)
    with pytest.raises(UsageError, match="did you mean 'train'"):
        read_passages(folder, "trian", 100)
    with pytest.raises(DataError, match="no file or folder"):
        read_passages(tmp_path / "absent", "test", 100)
    (tmp_path / "b.txt").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(DataError, match="There is no text in"):
        read_passages(tmp_path, "test", 100)
    bare = make_folder(tmp_path / "bare", {"train": [row("a.txt", "春")]}, [])
    with pytest.raises(DataError, match="choose another with --split"):
        read_passages(bare, "test", 100)


def test_tokens_come_from_the_shards(folder: Path, tokenizer: Tokenizer) -> None:
    from weft.data import shards

    shards.write(folder, tokenizer, folder / "shards")
    found = survey(folder)
    figures = (manifest.read(folder / "shards") or {})["figures"]
    tokens = sum(figures[split]["tokens"] for split in SPLITS)
    for counts in (found.tokens, found.tokens_by_language):
        assert sum(count.tokens for count in counts.values()) == tokens
        assert sum(count.bytes for count in counts.values()) == found.kept.bytes
    assert set(found.tokens) == set(found.folders)


def test_nothing_here_needs_the_engine() -> None:
    code = (
        "import sys; sys.modules['daft'] = None; sys.modules['xxhash'] = None\n"
        "import weft.data.survey, weft.data.selection, weft.data.passages, weft.recipes.data_report\n"
        "import weft.tokenizer.compression; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

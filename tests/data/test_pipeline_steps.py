"""Every step of the pipeline in one run, earlier data, kills in the middle, and the same result on Ray."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core import config as configuration
from weft.core.errors import ResourceError
from weft.data import cleaning, comparing, pipeline
from weft.data.config import DataConfig
from weft.data.documents import texts
from weft.data.steps import near, write

EN = """stream river mountain winter summer garden letter window market bridge captain sailor island forest
valley village teacher student doctor engine signal number matrix vector kernel thread socket""".split()  # noqa: SIM905
ZH = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"


def english(seed: int, words: int = 240) -> str:
    chosen = random.Random(seed)
    lines = ["The " + " ".join(chosen.choices(EN, k=10)) + " of that and this." for _ in range(words // 12)]
    return "\n".join(lines) + "\n"


def chinese(seed: int, characters: int = 400) -> str:
    chosen = random.Random(seed)
    return "\n".join("".join(chosen.choices(ZH, k=20)) + "的是。" for _ in range(characters // 20)) + "\n"


def make_corpus(folder: Path, count: int = 30) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"en{number:03}.txt").write_text(english(number), encoding="utf-8")
        (folder / f"zh{number:03}.md").write_text(chinese(number), encoding="utf-8")
    return folder


def settings(*overrides: str) -> DataConfig:
    return configuration.load(DataConfig, None, list(overrides))


def reasons(out: Path) -> dict[str, str]:
    rows = pq.read_table(out / "dropped").to_pylist()
    return {row["source"].partition("/")[2]: row["reason"] for row in rows}


def read(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def files(out: Path) -> dict[str, bytes]:
    found = [*(out / "documents").rglob("*.parquet"), *(out / "dropped").rglob("*.parquet")]
    return {str(file.relative_to(out)): file.read_bytes() for file in found}


def partitions(out: Path) -> dict[str, int]:
    """The inode of each finished partition of a run that is under way, by stage and name."""
    found = [*(out / ".work").glob("*/part-*"), *(out / ".shards.parts").glob("*/part-*")]
    return {f"{folder.parent.name}/{folder.name}": folder.stat().st_ino for folder in found}


def test_every_step_in_one_run(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    notice = "Subscribe to our newsletter and accept all of the cookies 订阅\n"
    for number in range(20):
        file = corpus / f"en{number:03}.txt"
        file.write_text(file.read_text(encoding="utf-8") + notice, encoding="utf-8")
    (corpus / "exam.txt").write_text(
        english(900) + "Which river crosses the winter market and the summer bridge near "
        "an old island village of sailors today?\n" + english(901),
        encoding="utf-8",
    )
    (corpus / "french.txt").write_text(
        "Le petit chat est sur la table de la cuisine et il mange du poisson. "
        "Nous avons parlé hier de la nouvelle maison de nos amis. " * 6
    )
    (corpus / "short.txt").write_text(
        "Some words that are far too few for what Gopher calls a document of "
        "quality, though they are longer than junk."
    )
    (corpus / "mail.txt").write_text(
        english(77) + "写信给wang.lei@example.cn或打13812345678。\n", encoding="utf-8"
    )
    (corpus / "garbled.txt").write_text(english(78).replace("of that", "itâ€™s of that"), encoding="utf-8")
    (corpus / "both.txt").write_text(
        "The river crosses the market and that is what the sailors have to say of it. " * 8
        + "船员们说这条河流穿过市场，这就是他们要说的关于它的全部内容，没有别的了。" * 8,
        encoding="utf-8",
    )
    exam = tmp_path / "exam.jsonl"
    exam.write_text(
        json.dumps(
            {
                "question": "Which river crosses the winter market and the summer bridge near an old "
                "island village of sailors today?"
            }
        )
        + "\n",
        encoding="utf-8",
    )
    config = settings(
        'language.keep=["en","zh"]',
        'quality.english=["gopher_quality"]',
        'quality.chinese=["chinese"]',
        "lines.unit=line",
        "lines.max_documents=5",
        "junk.max_repeated_text=1.0",
        f'contamination.sets=["{exam}"]',
        "part_bytes=20000",
    )
    record = pipeline.build(config, [corpus], tmp_path / "out")
    assert reasons(tmp_path / "out") == {
        "exam.txt": "contaminated",
        "french.txt": "language",
        "short.txt": "gopher_quality",
    }
    kept = "".join(text for split in ("train", "valid", "test") for text in texts(tmp_path / "out", split))
    assert "newsletter" not in kept and "wang.lei" not in kept and "13812345678" not in kept
    assert "<EMAIL>" in kept and "<PHONE>" in kept and "it’s of that" in kept
    rows = [row for file in (tmp_path / "out" / "documents").glob("*/*.parquet") for row in read(file)]
    assert [row["source"] for row in rows if row["mixed_language"]] == ["corpus/both.txt"]
    figures = record["figures"]
    assert figures["mixed_languages"] == 1
    assert figures["personal"] == {"email": 1, "phone": 1} and figures["lines"] == {"common": 20}
    hits = pq.read_table(tmp_path / "out" / "documents" / "contamination.parquet").to_pylist()
    assert hits and {row["set"] for row in hits} == {"exam.jsonl"} and "winter market" in hits[0]["ngram"]


def test_what_an_earlier_folder_has_is_not_taken_again(tmp_path: Path) -> None:
    old = make_corpus(tmp_path / "old", 10)
    pipeline.build(settings(), [old], tmp_path / "first")
    new = tmp_path / "new"
    new.mkdir()
    (new / "same.txt").write_text(english(3), encoding="utf-8")
    (new / "nearly.md").write_text(chinese(4)[:-2] + "龍\n", encoding="utf-8")
    (new / "fresh.txt").write_text(english(500), encoding="utf-8")
    config = settings(f'duplicates.against=["{tmp_path / "first"}"]')
    record = pipeline.build(config, [new], tmp_path / "second")
    assert reasons(tmp_path / "second") == {"same.txt": "exact_duplicate", "nearly.md": "near_duplicate"}
    assert record["figures"]["kept"]["documents"] == 1
    before = (tmp_path / "second" / "documents" / "manifest.json").stat().st_mtime_ns
    pipeline.build(config, [new], tmp_path / "second")
    assert (tmp_path / "second" / "documents" / "manifest.json").stat().st_mtime_ns == before
    (old / "more.txt").write_text(english(500), encoding="utf-8")
    pipeline.build(settings(), [old], tmp_path / "first")
    (new / "last.txt").write_text(english(501), encoding="utf-8")
    pipeline.build(config, [new], tmp_path / "second")
    assert reasons(tmp_path / "second")["fresh.txt"] == "exact_duplicate"


def test_a_write_that_fails_is_continued_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    monkeypatch.setattr(cleaning, "_BUCKET_BYTES", 10_000)
    pipeline.build(settings(), [corpus], tmp_path / "whole")
    plain, written = write._write_partition, []

    def fail_once(table: pa.Table, folder: Path) -> None:
        if len(written) >= 2 and "failed" not in written:
            written.append("failed")
            raise OSError(28, "No space left on device")
        plain(table, folder)
        written.append(folder.name)

    monkeypatch.setattr(write, "_write_partition", fail_once)
    with pytest.raises(ResourceError, match="no disk space left"):
        pipeline.build(settings(), [corpus], tmp_path / "out")
    before = [name for name in written if name != "failed"]
    assert len(before) >= 2 and {f"written/{name}" for name in before} <= set(partitions(tmp_path / "out"))
    monkeypatch.setattr(cleaning, "read_pieces", None)  # cleaning and comparing are not done again
    monkeypatch.setattr(comparing, "find_near_duplicates", None)
    pipeline.build(settings(), [corpus], tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert all(written.count(name) == 1 for name in before) and len(written) > 5


def jaccard(left: str, right: str, size: int, units: Any) -> float:
    def grams(text: str) -> set[tuple[str, ...]]:
        words = units(text)
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

    a, b = grams(left), grams(right)
    return len(a & b) / len(a | b)


def test_planted_near_duplicates_are_found_and_nothing_else(tmp_path: Path) -> None:
    """Pairs with a true similarity drawn from 0.5 to 1: recall and precision against the definition."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    chosen = random.Random(5)
    truth = {}
    for number in range(150):
        for name, text, vocabulary in (
            ("en", english(number, 600), EN),
            ("zh", chinese(number, 900), list(ZH)),
        ):
            separator = " " if name == "en" else ""
            words = text.split() if name == "en" else list(text.replace("\n", ""))
            changed = list(words)
            for _ in range(chosen.randint(0, 30)):
                changed[chosen.randrange(len(changed))] = chosen.choice(vocabulary) + (
                    "x" if name == "en" else ""
                )
            first, second = separator.join(words), separator.join(changed)
            (folder / f"{name}{number}a.txt").write_text(first, encoding="utf-8")
            (folder / f"{name}{number}b.txt").write_text(second, encoding="utf-8")
            units = (lambda t: t.lower().split()) if name == "en" else list
            truth[f"{name}{number}"] = jaccard(first, second, 5, units)
    pipeline.build(
        settings("junk.max_line_text=1000000", "language.identify=false"), [folder], tmp_path / "out"
    )
    gone = {name[:-5] for name in reasons(tmp_path / "out")}
    expected = {name for name, similarity in truth.items() if similarity >= 0.8}
    assert len(expected) > 50 and len(truth) - len(expected) > 50
    assert len(gone & expected) / len(expected) >= 0.95
    assert len(gone & expected) / len(gone) >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 400)
    command = [
        sys.executable,
        "-m",
        "weft",
        "data",
        str(corpus),
        "tokenizer.vocab_size=512",
        "part_bytes=100000",
    ]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    generator = random.Random(1)
    before: dict[str, int] = {}
    kills = 0
    while True:
        process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
        try:
            process.wait(generator.uniform(0.8, 1.2) + 0.2 * kills)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            now = partitions(tmp_path / "killed")
            for stage in {name.partition("/")[0] for name in now}:
                lost = {name for name in before if name.startswith(stage) and before[name] != now.get(name)}
                assert not lost, "a finished partition was lost or made again"
            before = now
    assert process.returncode == 0 and kills >= 3
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    for name in ("train.bin", "train.idx", "valid.bin", "test.bin"):
        killed, whole = (tmp_path / run / "shards" / name for run in ("killed", "whole"))
        assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_on_this_machine_gives_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    corpus = make_corpus(tmp_path / "corpus", 60)
    command = [
        sys.executable,
        "-m",
        "weft",
        "data",
        str(corpus),
        "tokenizer.vocab_size=512",
        "part_bytes=50000",
    ]
    started = time.monotonic()
    for name, on in (("embedded", "local"), ("ray", "ray")):
        run = [*command, "--out", str(tmp_path / name), "--on", on]
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert time.monotonic() > started
    assert files(tmp_path / "ray") == files(tmp_path / "embedded")
    records = [
        json.loads((tmp_path / name / "manifest.json").read_text())["config"] for name in ("embedded", "ray")
    ]
    assert records[0] == records[1]


def test_another_place_to_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 2)
    command = [
        sys.executable,
        "-m",
        "weft",
        "data",
        str(corpus),
        "--out",
        str(tmp_path / "out"),
        "--on",
        "spark",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "give local, ray or ray://HOST:PORT" in done.stderr


def test_bands_compared_a_share_at_a_time_give_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    for number in range(9):
        (corpus / f"near{number}.txt").write_text(english(number) + "And one more.\n", encoding="utf-8")
        (corpus / f"near{number}.md").write_text(chinese(number) + "又一句。\n", encoding="utf-8")
    pipeline.build(settings(), [corpus], tmp_path / "whole")
    assert list(reasons(tmp_path / "whole").values()) == ["near_duplicate"] * 18
    asked = []
    pairs_of = near._pairs_of
    monkeypatch.setattr(near, "_ROWS", 25)
    monkeypatch.setattr(near, "_pairs_of", lambda members: asked.append(members) or pairs_of(members))
    pipeline.build(settings(), [corpus], tmp_path / "out")
    assert asked and files(tmp_path / "out") == files(tmp_path / "whole")

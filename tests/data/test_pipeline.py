"""The whole data step: the funnel, duplicates in Chinese and English, splits, repetition, bad input."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from weft.core import config as configuration
from weft.core.errors import ConfigError, DataError, ResourceError, UsageError
from weft.data import pipeline
from weft.data.config import DataConfig, DuplicatesConfig, JunkConfig, ReadConfig, SplitConfig
from weft.data.documents import texts
from weft.data.loader import Loader
from weft.data.minhash import bands
from weft.data.prepare import prepare
from weft.data.steps.near import components
from weft.data.steps.split import thresholds

EN = """stream river mountain winter summer garden letter window market bridge captain sailor island forest
valley village teacher student doctor engine signal number matrix vector kernel thread socket""".split()  # noqa: SIM905
ZH = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"


def english(seed: int, words: int = 120) -> str:
    chosen = random.Random(seed)
    sentences = [" ".join(chosen.choices(EN, k=12)).capitalize() + "." for _ in range(words // 12)]
    return "\n".join(sentences) + "\n"


def chinese(seed: int, characters: int = 200) -> str:
    chosen = random.Random(seed)
    parts = ["".join(chosen.choices(ZH, k=20)) + "。" for _ in range(characters // 20)]
    return "\n".join(parts) + "\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(30):
        (folder / f"en{number:02}.txt").write_text(english(number), encoding="utf-8")
        (folder / f"zh{number:02}.md").write_text(chinese(number), encoding="utf-8")
    return folder


def dropped(out: Path) -> dict[str, dict[str, Any]]:
    table = pq.read_table(out / "dropped")
    return {row["source"].partition("/")[2]: row for row in table.to_pylist()}


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.suffix in {".bin", ".idx", ".parquet"})
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_funnel_counts_every_document_with_its_reason(corpus: Path, tmp_path: Path) -> None:
    (corpus / "empty.txt").write_text(" \n\t\n")
    (corpus / "short.txt").write_text("tiny")
    (corpus / "image.png").write_bytes(b"\x89PNG\0\0")
    (corpus / "hidden_binary.txt").write_bytes(b"MZ\x90\0\x03\0\0\0" * 40)
    (corpus / "latin1.txt").write_bytes("Ça déjà été là, naïf Noël".encode("latin-1") * 4)
    (corpus / "repeats.txt").write_text("the very same line again\n" * 50)
    (corpus / "symbols.txt").write_text("*** --- === " * 30)
    (corpus / "wide.py").write_text("x = '" + "a" * 2000 + "'\n" + "y = 1\n" * 5)
    (corpus / "twin.txt").write_text(english(0), encoding="utf-8")
    (corpus / "crlf.txt").write_text(english(1).replace("\n", "\r\n"), encoding="utf-8")
    (corpus / "gone.txt").symlink_to(tmp_path / "nowhere")
    record = pipeline.build(DataConfig(), [corpus], tmp_path / "out")
    got = {name: row["reason"] for name, row in dropped(tmp_path / "out").items()}
    # Of two equal documents the one whose name comes first stays.
    assert got == {
        "empty.txt": "empty",
        "short.txt": "too_short",
        "image.png": "binary",
        "hidden_binary.txt": "binary",
        "latin1.txt": "invalid_encoding",
        "repeats.txt": "repeated_lines",
        "symbols.txt": "not_text",
        "wide.py": "long_line",
        "twin.txt": "exact_duplicate",
        "en01.txt": "exact_duplicate",
        "gone.txt": "unreadable",
    }
    assert all(row["value"] for row in dropped(tmp_path / "out").values())
    figures = record["figures"]
    assert figures["in"]["documents"] == 71 and figures["kept"]["documents"] == 60
    assert sum(count["documents"] for count in figures["dropped"].values()) == 11
    assert set(figures["languages"]) == {"en", "zh"}
    kept = [text for split in ("train", "valid", "test") for text in texts(tmp_path / "out", split)]
    assert len(kept) == 60 and chinese(3) in kept and english(1) in kept


def test_a_giant_line_is_dropped_without_being_read(corpus: Path, tmp_path: Path) -> None:
    with (corpus / "giant.txt").open("wb") as stream:
        stream.truncate(1 << 30)  # a hole: it would take a gigabyte of memory, were it read
    with (corpus / "giant.jsonl").open("wb") as stream:
        stream.write(json.dumps({"text": english(900)}).encode() + b"\n" + b"z" * 3000 + b"\n")
        stream.write(json.dumps({"text": english(901)}).encode() + b"\n")
    config = DataConfig(read=ReadConfig(max_document_bytes=2000))
    record = pipeline.build(config, [corpus], tmp_path / "out")
    reasons = {name: row["reason"] for name, row in dropped(tmp_path / "out").items()}
    assert reasons.pop("giant.txt") == "too_large"
    assert list(reasons.values()) == ["too_large"]
    assert record["figures"]["kept"]["documents"] == 62


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_near_duplicates_are_found_in_chinese_and_english(tmp_path: Path, threshold: float) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(20):
        for name, make in (("en", english), ("zh", chinese)):
            text = make(number, 600)
            # One changed word in the middle: a Jaccard similarity above 0.9.
            (folder / f"{name}{number}a.txt").write_text(text, encoding="utf-8")
            (folder / f"{name}{number}b.txt").write_text(text[:-2] + ("different" if name == "en" else "龍"))
            # Every fourth sentence of another text: similar, but below both thresholds.
            lines = text.splitlines()
            mixed = [
                make(number + 500, 600).splitlines()[i] if i % 2 else line for i, line in enumerate(lines)
            ]
            (folder / f"{name}{number}c.txt").write_text("\n".join(mixed), encoding="utf-8")
    config = DataConfig(duplicates=DuplicatesConfig(jaccard=threshold))
    pipeline.build(config, [folder], tmp_path / "out")
    gone = dropped(tmp_path / "out")
    assert {row["reason"] for row in gone.values()} == {"near_duplicate"}
    assert sorted(name[:-5] for name in gone) == sorted(
        f"{name}{n}" for name in ("en", "zh") for n in range(20)
    )
    for row in gone.values():
        assert row["value"] < row["id"], "the smallest hash of a cluster stays"
    off = DataConfig(duplicates=DuplicatesConfig(near=False))
    assert pipeline.build(off, [folder], tmp_path / "off")["figures"]["dropped"] == {}


def test_clusters_are_connected_components() -> None:
    assert components([("b", "c"), ("x", "y"), ("a", "c")]) == {"b": "a", "c": "a", "y": "x"}
    assert components([]) == {}
    for threshold in (0.5, 0.8, 0.95):
        number, rows = bands(threshold)
        assert number * rows <= 128 and 1 - (1 - threshold**rows) ** number >= 0.995


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (1000, (961, 20, 19))]
)
def test_small_corpora_fill_every_split(count: int, sizes: tuple[int, int, int]) -> None:
    draws = np.random.default_rng(1).random(count)
    test, valid = thresholds(draws, SplitConfig())
    in_test, in_both = (draws < test).sum(), (draws < valid).sum()
    got = (count - in_both, in_both - in_test, in_test)
    if count < 10:
        assert got == sizes
    else:
        assert all(abs(a - b) < 15 for a, b in zip(got, sizes, strict=True))


def test_two_runs_are_byte_identical_and_a_repeated_one_does_nothing(corpus: Path, tmp_path: Path) -> None:
    config = configuration.load(DataConfig, None, ["tokenizer.vocab_size=512"])
    first = prepare(config, [corpus], tmp_path / "first")
    moved = tmp_path / "elsewhere" / "corpus"
    shutil.copytree(corpus, moved)
    prepare(config, [moved], tmp_path / "second")
    assert hashes(tmp_path / "first") == hashes(tmp_path / "second")
    assert {"shards/train.bin", "documents/train/part-00000.parquet"} <= set(hashes(tmp_path / "first"))
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "first").rglob("*") if f.is_file()}
    assert prepare(config, [corpus], tmp_path / "first") == first
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "first").rglob("*") if f.is_file()} == stamps
    assert Loader(tmp_path / "first" / "shards", "train", 64, 2).tokens_per_epoch > 1000
    # Opening shards notes there which files were found whole; nothing else may be hidden.
    assert {file.suffix for file in tmp_path.rglob(".*")} == {".verified"}


def test_a_changed_corpus_or_configuration_is_worked_on_again(corpus: Path, tmp_path: Path) -> None:
    before = pipeline.build(DataConfig(), [corpus], tmp_path / "out")
    (corpus / "new.txt").write_text(english(77))
    after = pipeline.build(DataConfig(), [corpus], tmp_path / "out")
    assert after["figures"]["kept"]["documents"] == before["figures"]["kept"]["documents"] + 1
    strict = DataConfig(junk=JunkConfig(min_bytes=700))
    assert pipeline.build(strict, [corpus], tmp_path / "out")["figures"]["dropped"]


def test_a_given_tokenizer_is_adopted(corpus: Path, tmp_path: Path) -> None:
    config = configuration.load(DataConfig, None, ["tokenizer.vocab_size=512"])
    first = prepare(config, [corpus], tmp_path / "first")
    config = configuration.load(DataConfig, None, [f"tokenizer.path={tmp_path / 'first' / 'tokenizer'}"])
    second = prepare(config, [corpus], tmp_path / "second")
    assert second["figures"]["tokenizer"] == first["figures"]["tokenizer"]
    assert (tmp_path / "second" / "tokenizer" / "tokenizer.json").is_file()


def test_bad_corpora_are_one_sentence_and_leave_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    empty, binary, junk = tmp_path / "empty", tmp_path / "binary", tmp_path / "junk"
    for folder in (empty, binary, junk):
        folder.mkdir()
    (binary / "a.png").write_bytes(b"\0\1")
    (binary / "b.txt").write_bytes(b"\x7fELF\0\0")
    (junk / "c.txt").write_text("tiny")
    for source, words in (
        (tmp_path / "nowhere", "no file or folder"),
        (empty, "No files were found"),
        (binary, r"Nothing is left of 2 documents \(binary 2\)"),
        (junk, r"Nothing is left of 1 documents \(too_short 1\)"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            pipeline.build(DataConfig(), [source], out)
        assert "\n" not in str(caught.value)
        assert not out.exists() or list(out.iterdir()) == []
    with pytest.raises(UsageError, match="nothing to read"):
        prepare(DataConfig(), [], out)
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        configuration.load(DataConfig, None, ["split.test=0.7", "split.valid=0.4"])


def test_an_unreadable_file_is_set_aside(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "en05.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    record = pipeline.build(DataConfig(), [corpus], tmp_path / "out")
    row = dropped(tmp_path / "out")["en05.txt"]
    assert (row["reason"], row["value"]) == ("unreadable", "Permission denied")
    assert record["figures"]["kept"]["documents"] == 59


def test_a_full_disk_leaves_no_half_written_folder(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(ResourceError, match="no disk space left"):
        pipeline.build(DataConfig(), [corpus], tmp_path / "out")
    assert not (tmp_path / "out" / "documents").exists()
    monkeypatch.undo()
    assert pipeline.build(DataConfig(), [corpus], tmp_path / "out")["figures"]["kept"]["documents"] == 60


def run_weft(*arguments: str, limit_kib: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft", *arguments]
    if limit_kib is not None:
        command = ["bash", "-c", f"ulimit -f {limit_kib}; exec " + ' "$@"', "bash", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_engine_reports_a_full_disk_in_one_sentence(corpus: Path, tmp_path: Path) -> None:
    (corpus / "big.txt").write_text(english(5, 200_000))
    done = run_weft("data", str(corpus), "--out", str(tmp_path / "out"), limit_kib=64)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("weft: Could not write")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "documents").exists()


def test_the_command_line_reads_run_files_and_overrides(corpus: Path, tmp_path: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text(f'sources = ["{corpus}"]\n[tokenizer]\nvocab_size = 512\n')
    out = tmp_path / "out"
    done = run_weft(
        "data", str(run_file), "--out", str(out), "split.test=0.1", "--json", str(tmp_path / "r.json")
    )
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout and "60 documents" in done.stdout
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["figures"]["shards"]["vocab_size"] == 512
    assert "test = 0.1" in json.loads((out / "manifest.json").read_text())["config"]
    done = run_weft("data", str(corpus), "--out", str(out), "splitt.test=0.1")
    assert done.returncode == 2 and "did you mean split" in done.stderr
    done = run_weft("tokenizer", "train", str(out), "--vocab-size", "448")
    assert done.returncode == 0 and "448 tokens" in done.stdout
    done = run_weft("tokenizer", "train", str(out), "--vocab-size", "450")
    assert done.returncode == 2 and "try 448" in done.stderr


@pytest.mark.parametrize("ignored", [False, True])
def test_interrupted_in_the_middle_it_continues_to_the_same_result(
    corpus: Path, tmp_path: Path, ignored: bool
) -> None:
    """SIGINT ignored is how a shell starts background jobs; the engine listens nevertheless."""
    for number in range(30, 180):
        (corpus / f"en{number}.txt").write_text(english(number, 2400), encoding="utf-8")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "weft",
        "data",
        str(corpus),
        "--out",
        str(out),
        "tokenizer.vocab_size=512",
    ]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler
        ),
    )
    deadline = time.monotonic() + 60
    while not (out / ".work").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "Interrupted" in errors
    assert not (out / "documents").exists()
    config = configuration.load(DataConfig, None, ["tokenizer.vocab_size=512"])
    prepare(config, [corpus], out)
    prepare(config, [corpus], tmp_path / "whole")
    assert hashes(out) == hashes(tmp_path / "whole")

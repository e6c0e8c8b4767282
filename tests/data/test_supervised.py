"""Conversations and pairs: forms, masks, rules for long ones, and that each is dropped with a reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core import manifest
from weft.core.errors import DataError, UsageError
from weft.data import supervised
from weft.data.answers import AnswerLoader
from weft.data.batch import IGNORED, PairBatch
from weft.data.config import SplitConfig
from weft.data.conversations import parse
from weft.data.indexed import ShardReader
from weft.data.pairs import PairLoader
from weft.data.supervised import SupervisedConfig, prepare, write
from weft.data.supervised_config import raw_records
from weft.tokenizer import Tokenizer

ALL = SplitConfig(0.0, 0.0)
CHATS: list[Any] = [
    {
        "messages": [
            {"role": "user", "content": "你好" * n},
            {"role": "assistant", "content": "花落" * (n + 1)},
        ]
    }
    for n in range(1, 40)
]


def lines(file: Path, records: list[Any]) -> Path:
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("record", "roles"),
    [
        ({"messages": [{"role": "developer", "content": "s"}, {"role": "assistant", "content": "a"}]}, "sa"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "好"}]},
                       {"role": "assistant", "content": "a"}]}, "ua"),
        ({"system": "s", "conversations": [{"from": "human", "value": "q"},
                                           {"from": "gpt", "value": "a"}]}, "sua"),
        ({"conversations": [{"from": "observation", "value": "q"},
                            {"from": "function_call", "value": "a"}]}, "ta"),
        ({"instruction": "翻译", "input": "hello", "output": "你好"}, "ua"),
        ({"instruction": "i", "output": "o", "history": [["q", "a"]], "system": ""}, "uaua"),
    ],
)  # fmt: skip
def test_forms_of_conversations(record: dict[str, Any], roles: str) -> None:
    messages, reason, _ = parse(record)
    assert reason is None and messages is not None
    assert "".join(message["role"][0] for message in messages) == roles


def test_an_alpaca_input_follows_the_instruction() -> None:
    messages, _, _ = parse({"instruction": "翻译", "input": "hello", "output": "你好"})
    assert messages == [{"role": "user", "content": "翻译\nhello"}, {"role": "assistant", "content": "你好"}]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("text", "no_conversation"),
        ({"text": "x"}, "no_conversation"),
        ({"messages": []}, "no_answer"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no_answer"),
        ({"messages": [{"role": "assistant", "content": " "}]}, "no_answer"),
        ({"messages": [{"role": "wizard", "content": "q"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": None}]}, "bad_message"),
        ({"messages": ["q"]}, "bad_message"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "bad_message"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "bad_message"),
        ({"instruction": 1, "output": "o"}, "bad_message"),
        ({"instruction": "i", "output": "o", "history": [["q"]]}, "bad_message"),
        ({"instruction": "i", "output": "\ud800"}, "invalid_encoding"),
    ],
)
def test_what_is_no_conversation_has_a_reason(record: Any, reason: str) -> None:
    messages, found, value = parse(record)
    assert messages is None and found == reason and value is not None


@pytest.fixture
def chats(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    lines(tmp_path / "chats.jsonl", CHATS)
    write([tmp_path / "chats.jsonl"], tokenizer, tmp_path / "out", SupervisedConfig(split=ALL))
    return tmp_path / "out"


def test_loss_is_on_answers_only_and_none_is_lost(chats: Path, tokenizer: Tokenizer) -> None:
    loader = AnswerLoader(chats, "train", 512, 2, seed=1)
    assert loader.counts == {"kept": 39, "cut": 0, "too_long": 0, "no_answer": 0}
    answers = []
    for batch in loader.sequential():
        for tokens, targets, start in zip(batch.tokens, batch.targets, batch.document_start, strict=True):
            kept = targets != IGNORED
            for first in np.unique(start[kept]).tolist():
                answers.append(tokenizer.decode(targets[kept & (start == first)].tolist()))
            # What carries no loss is still read: the question stands before its answer.
            assert (tokens[1:][kept[:-1]] == targets[:-1][kept[:-1]])[
                start[1:][kept[:-1]] == start[:-1][kept[:-1]]
            ].all()
    assert sorted(answers) == sorted("花落" * (n + 1) + "<|im_end|>" for n in range(1, 40))


@pytest.mark.parametrize("long", ["drop", "cut"])
def test_long_examples_follow_the_rule_and_are_counted(chats: Path, long: Any) -> None:
    width = 60
    lengths = ShardReader(chats / "train").lengths
    loader = AnswerLoader(chats, "train", width, 2, long=long)
    counts = loader.counts
    assert sum(counts[name] for name in ("kept", "too_long", "no_answer")) == 39
    assert counts["too_long" if long == "drop" else "cut"] > 0
    assert loader.documents == counts["kept"]
    expected = lengths[lengths <= width].sum() + (counts["cut"] * width)
    assert loader.tokens_per_epoch == expected
    with pytest.raises(DataError, match="No example"):
        AnswerLoader(chats, "train", 4, long=long)


def test_batches_are_the_same_for_any_number_of_parts(chats: Path) -> None:
    loader = AnswerLoader(chats, "train", 256, 4, seed=7)
    parts = [
        AnswerLoader(chats, "train", 256, 4, seed=7).gather(range(40 + n, 41 + n)).targets for n in range(4)
    ]
    assert np.array_equal(np.concatenate(parts), loader.batch(10).targets)


def test_every_broken_record_is_counted_with_its_reason(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines(folder / "a.jsonl", [CHATS[0], {"text": "x"}, CHATS[0]])
    with (folder / "a.jsonl").open("ab") as stream:
        stream.write(b'{"broken\n\n\xff\xfe{}\n')
    (folder / "b.json").write_text(json.dumps([CHATS[1], 3]))
    (folder / "c.json").write_text("{")
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(json.dumps(CHATS[2]).encode()))
    pq.write_table(pa.Table.from_pylist([CHATS[3], CHATS[4]]), folder / "e.parquet")
    (folder / "ignored.bin").write_bytes(b"")
    record = write([folder], tokenizer, tmp_path / "out", SupervisedConfig(split=ALL))
    assert record["figures"]["train"]["documents"] == 5
    assert record["figures"]["dropped"] == {
        "no_conversation": 2, "exact_duplicate": 1, "bad_json": 2, "invalid_encoding": 1,
    }  # fmt: skip
    rows = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert {"source": "a.jsonl#2", "reason": "exact_duplicate", "value": "a.jsonl#0"} in rows
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    write([folder], tokenizer, tmp_path / "out", SupervisedConfig(split=ALL))
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before


def test_splits_are_drawn_by_content(tmp_path: Path, tokenizer: Tokenizer) -> None:
    settings = SupervisedConfig(split=SplitConfig(0.2, 0.2))
    write([lines(tmp_path / "a.jsonl", CHATS)], tokenizer, tmp_path / "one", settings)
    write([lines(tmp_path / "b.jsonl", CHATS[::-1])], tokenizer, tmp_path / "two", settings)
    for split in ("train", "valid", "test"):
        ids = [
            set(pq.read_table(tmp_path / name / f"{split}.parquet")["id"].to_pylist())
            for name in ("one", "two")
        ]
        assert ids[0] == ids[1] and ids[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "There is no file"),
        ("a.docx", b"", "no known kind"),
        ("a.jsonl", b"", "No example is left"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}' * 1000, mtime=0)[:-20], "cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, tokenizer: Tokenizer, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        write([tmp_path / name], tokenizer, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


# --- pairs ---------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    rows = [f"sentence {n}{' word' * (n % 7)}\t句子{n}{'字' * (n % 11)}" for n in range(60)]
    (tmp_path / "pairs.tsv").write_text(
        "\n".join(["en\tzh", *rows, "only one column", "\t空"]) + "\n", encoding="utf-8"
    )
    settings = SupervisedConfig("pairs", ("en", "zh"), ALL)
    record = write([tmp_path / "pairs.tsv"], tokenizer, tmp_path / "out", settings)
    assert record["figures"]["dropped"] == {"too_few_columns": 1, "empty": 1}
    return tmp_path / "out"


def test_columns_without_a_name_are_given_by_number(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one\t一\tx\ntwo\t二\tx\nthree\n", encoding="utf-8")
    settings = SupervisedConfig("pairs", ("2", "1"), ALL)
    found = [record or reason for _, record, reason, _ in raw_records([tmp_path / "a.tsv"], settings)]
    assert found == [{"2": "一", "1": "one"}, {"2": "二", "1": "two"}, "too_few_columns"]


def texts_of(batch: PairBatch, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    found = []
    for row in range(len(batch.source)):
        for pair in range(batch.source_pair[row].max() + 1):
            source = batch.source[row][batch.source_pair[row] == pair].tolist()
            mine = batch.target_pair[row] == pair
            target, tokens = batch.targets[row][mine].tolist(), batch.tokens[row][mine].tolist()
            assert tokens == [tokenizer.eos_id, *target[:-1]]
            assert (batch.document_start[row][mine] == np.flatnonzero(mine)[0]).all()
            found.append((tokenizer.decode(source), tokenizer.decode(target)))
        padding = batch.target_pair[row] == -1
        assert (batch.targets[row][padding] == IGNORED).all()
    return found


def test_an_epoch_of_pairs_is_each_pair_once(pairs: Path, tokenizer: Tokenizer) -> None:
    loader = PairLoader(pairs, "train", 96, 64, 1, seed=2)
    assert loader.counts == {"kept": 60, "cut": 0, "too_long": 0} and loader.rows < 60
    found = [pair for step in range(loader.rows) for pair in texts_of(loader.batch(step), tokenizer)]
    expected = [(f"sentence {n}{' word' * (n % 7)}", f"句子{n}{'字' * (n % 11)}") for n in range(60)]
    end = "<|endoftext|>"
    assert sorted(found) == sorted((source + end, target + end) for source, target in expected)
    parts = [
        PairLoader(pairs, "train", 96, 64, 3, seed=2).gather(range(9 + n, 10 + n)).source for n in range(3)
    ]
    assert np.array_equal(
        np.concatenate(parts), PairLoader(pairs, "train", 96, 64, 3, seed=2).batch(3).source
    )


def test_long_pairs_follow_the_rule(pairs: Path, tokenizer: Tokenizer) -> None:
    dropped = PairLoader(pairs, "train", 24, 24)
    assert dropped.counts["kept"] + dropped.counts["too_long"] == 60 and dropped.counts["too_long"]
    cut = PairLoader(pairs, "train", 24, 24, long="cut")
    assert cut.counts["kept"] == 60 and cut.counts["cut"] == dropped.counts["too_long"]
    found = [pair for step in range(cut.rows) for pair in texts_of(cut.batch(step), tokenizer)]
    assert len(found) == 60 and all(source.endswith("<|endoftext|>") for source, _ in found)
    assert sum(not target.endswith("<|endoftext|>") for _, target in found) > 0
    with pytest.raises(DataError, match="No pair"):
        PairLoader(pairs, "train", 2, 2)
    with pytest.raises(UsageError, match="too short"):
        PairLoader(pairs, "train", 1, 8)


def test_conversations_are_no_pairs(chats: Path, shards_folder: Path) -> None:
    with pytest.raises(DataError, match="answer loader"):
        PairLoader(chats, "train", 64, 64)
    with pytest.raises(DataError, match="sidecar"):
        AnswerLoader(shards_folder, "train", 64)
    assert (manifest.read(chats) or {})["figures"]["form"] == "chat"


def test_a_tokenizer_of_its_own_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = lines(tmp_path / "chats.jsonl", CHATS), tmp_path / "out"
    first = prepare([file], 320, out)
    monkeypatch.setattr(supervised, "train", lambda *_, **__: pytest.fail("trained again"))
    assert prepare([file], 320, out) == first
    monkeypatch.undo()
    # Another size, and other files, are other data.
    assert prepare([file], 384, out)["inputs"] != first["inputs"]
    assert prepare([lines(tmp_path / "more.jsonl", CHATS[1:])], 384, out)["inputs"] != first["inputs"]


def test_tags_of_an_earlier_version_are_made_again(tmp_path: Path) -> None:
    """Their manifest does not say whether texts have predicates."""
    file = tmp_path / "a.jsonl"
    record = {"text": "Anna saw Peter", "predicate": {"start": 5, "end": 8}, "roles": []}
    file.write_text("".join(json.dumps(record | {"text": f"Anna saw Peter {n}"}) + "\n" for n in range(40)))
    settings = SupervisedConfig(form="tag")
    made = prepare([file], 320, tmp_path / "out", settings)
    assert len(made["figures"]["markers"]) == 2
    manifest = tmp_path / "out" / "shards" / "manifest.json"
    table = json.loads(manifest.read_text())
    del table["figures"]["markers"]
    manifest.write_text(json.dumps(table))
    assert (
        prepare([file], 320, tmp_path / "out", settings)["figures"]["markers"] == made["figures"]["markers"]
    )

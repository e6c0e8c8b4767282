"""An index on disk: built, opened, searched in three ways and asked, in Chinese and English."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from weft import retrieval
from weft.checkpoint.huggingface import save_model
from weft.core.errors import CheckpointError, DataError, UsageError
from weft.models import Decoder
from weft.models.encoder import Encoder
from weft.models.encoder_config import EncoderConfig
from weft.retrieval.answer import NOTHING, NOTHING_CHINESE, Drafted
from weft.retrieval.dense import EncoderVectors
from weft.retrieval.hybrid import fed_back, reciprocal_ranks, weighted_sum
from weft.tokenizer import Tokenizer

TEXTS = {
    "car": "The car has a new engine. Its driver parks the car in the garage.",
    "automobile": "An automobile needs an engine and a driver. Each automobile stands in a garage.",
    "motor": "A garage repairs the engine while the driver waits for his automobile, or car as he says.",
    "tower": "The Eiffel Tower is 330 metres tall. It stands in Paris. Gustave Eiffel built it in 1889.",
    "bread": "Bread rises because yeast makes gas. A baker kneads the dough for ten minutes.",
    "cake": "A cake needs flour, sugar and eggs. The baker heats the oven first.",
    "garden": "Roses need water and sun. Cut them in spring, before the buds open.",
    "beijing": "北京是中国的首都。人口超过两千万。故宫建于明朝。",
    "shanghai": "上海在长江的入海口。上海的港口是世界上最大的。",
    "tea": "绿茶产于浙江。泡茶的水不要太热，八十度就可以。",
    "panda": "大熊猫住在四川的山里，吃竹子。",
    "moon": "月亮绕地球一圈要二十七天。月亮自己不发光。",
}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes") / "notes"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def built(notes: Path) -> retrieval.Index:
    return retrieval.index(notes, notes.parent / "index")


def names(hits: Sequence[retrieval.Hit]) -> list[str]:
    return [Path(hit.document).stem for hit in hits]


@pytest.mark.parametrize("how", ["bm25", "dense", "hybrid"])
def test_each_way_finds_it_in_both_languages(built: retrieval.Index, how: str) -> None:
    assert names(built.search("who built the tower in Paris", 3, how))[0] == "tower"
    assert names(built.search("中国的首都", 3, how))[0] == "beijing"
    for hit in built.search("engine 茶", 5, how):
        assert TEXTS[Path(hit.document).stem][hit.start : hit.end] == hit.text and hit.score > 0


def test_dense_finds_what_shares_no_word(built: retrieval.Index) -> None:
    assert "automobile" not in TEXTS["car"].lower()
    assert names(built.search("automobile", 12, "bm25")) == ["automobile", "motor"]
    for how in ("dense", "hybrid"):
        assert "car" in names(built.search("automobile", 3, how))


def test_vectors_of_queries_move_to_the_best_passages() -> None:
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    own = np.array([0, 1], np.float32)
    np.testing.assert_allclose(
        fed_back(own, np.array([2.0, 0, 0]), vectors, 2), [0.5**0.5, 0.5**0.5], rtol=1e-6
    )
    moved = fed_back(own, np.array([3.0, 4.0, 0]), vectors, 2)
    np.testing.assert_allclose(moved, np.array([0.6, 1.8]) / np.hypot(0.6, 1.8), rtol=1e-6)
    assert fed_back(own, np.zeros(3), vectors, 2) is own


def test_hybrid_is_made_of_both() -> None:
    first, second = np.array([3.0, 1.0, 0.0]), np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(weighted_sum(first, second, 0.25), [0.75, 0.375, 0.25])
    found = reciprocal_ranks(first, second, 0.5)
    np.testing.assert_allclose(found, [0.5 / 61, 0.5 / 62 + 0.5 / 62, 0.5 / 61])
    assert weighted_sum(np.zeros(2), np.zeros(2), 0.5).tolist() == [0, 0]
    with pytest.raises(UsageError, match="from 0 to 1"):
        weighted_sum(first, second, 2)


def test_opened_is_what_was_built(built: retrieval.Index) -> None:
    opened = retrieval.open(built.folder)
    assert opened.passages == built.passages and len(opened) == len(TEXTS)
    for how in ("bm25", "dense", "hybrid"):
        np.testing.assert_array_equal(
            opened.scores("the driver 上海", how), built.scores("the driver 上海", how)
        )


def test_nothing_is_done_twice_and_changes_are_seen(notes: Path, tmp_path: Path) -> None:
    first = retrieval.index([notes], tmp_path / "out")
    written = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    retrieval.index([notes], tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == written
    smaller = retrieval.index([notes], tmp_path / "out", retrieval.IndexConfig(size=8, overlap=0))
    assert len(smaller) > len(first)
    (tmp_path / "more.txt").write_text("More of it.")
    both = retrieval.index([notes, tmp_path / "more.txt"], tmp_path / "out")
    assert both.search("more", 1)[0].document == "more.txt"


def test_an_index_inside_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A short text.")
    for _ in range(2):
        assert len(retrieval.index(tmp_path, tmp_path / "index")) == 1


def test_a_reranker_orders_anew(built: retrieval.Index) -> None:
    def shortest(query: str, passages: Sequence[str]) -> list[float]:
        return [-len(passage) for passage in passages]

    found = built.search("the driver and the baker", 3, reranker=shortest)
    assert len(found) == 3 and [len(hit.text) for hit in found] == sorted(len(hit.text) for hit in found)
    with pytest.raises(UsageError, match="gave 0 scores"):
        built.search("driver", reranker=lambda query, passages: [])


@pytest.mark.parametrize(
    ("question", "document", "words"),
    [
        ("How tall is the Eiffel Tower?", "tower", "330 metres tall. [1]"),
        ("Why does bread rise?", "bread", "yeast makes gas. [1]"),
        ("中国的首都是哪里？", "beijing", "北京是中国的首都。 [1]"),
        ("大熊猫吃什么？", "panda", "吃竹子。 [1]"),
    ],
)
def test_answers_cite_their_passage(built: retrieval.Index, question: str, document: str, words: str) -> None:
    found = built.ask(question)
    assert found.found and words in found.text, found
    assert names(found.citations)[0] == document
    assert found.coverage >= found.threshold


@pytest.mark.parametrize(
    "question",
    [
        "What is the price of gold in London?",
        "Who composed the ninth symphony?",
        "量子计算机的价格是多少？",
        "what is it?",
        "?!",
    ],
)
def test_nothing_is_found_for_something_else(built: retrieval.Index, question: str) -> None:
    found = built.ask(question)
    assert not found.found and found.citations == ()
    assert found.text == (NOTHING_CHINESE if "量" in question else NOTHING)


def test_a_model_may_answer(built: retrieval.Index) -> None:
    def writes(question: str, passages: Sequence[str]) -> Drafted | None:
        return Drafted("It is tall [1], says nobody [9].", (0,)) if "330" in passages[0] else None

    found = built.ask("How tall is the Eiffel Tower?", answerer=writes)
    assert found.text == "It is tall [1], says nobody ." and names(found.citations) == ["tower"]
    found = built.ask("How tall is the Eiffel Tower?", answerer=lambda q, p: Drafted("330 m", (0,)))
    assert found.text == "330 m [1]"
    assert built.ask("Why does bread rise?", answerer=writes).text == NOTHING


def test_bad_questions_are_one_sentence(built: retrieval.Index) -> None:
    for ask in (built.search, built.ask):
        with pytest.raises(UsageError, match="query is empty"):
            ask(" ")
    with pytest.raises(UsageError, match="way of searching"):
        built.search("a", how="magic")
    with pytest.raises(UsageError, match="ask for at least 1"):
        built.search("a", 0)
    assert len(built.search("the driver", 1000)) <= len(TEXTS)
    assert built.search("zyzzyva", 3, "bm25") == built.search("zyzzyva", 3) == []


def test_bad_folders_are_one_sentence(built: retrieval.Index, notes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No files were found"):
        retrieval.index(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="skipped: binary 1"):
        retrieval.index(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="no file or folder"):
        retrieval.index(tmp_path / "none", tmp_path / "out")
    with pytest.raises(UsageError, match="would replace"):
        retrieval.index(notes, notes)
    with pytest.raises(DataError, match="holds no index"):
        retrieval.open(notes)
    assert not (tmp_path / "out").exists() and len(list(notes.iterdir())) == len(TEXTS)


@pytest.mark.parametrize(
    "name", ["passages.parquet", "bm25.npz", "latent.npz", "vectors.npy", "manifest.json"]
)
def test_a_damaged_index_is_one_sentence(notes: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    retrieval.index(notes, out)
    content = (out / name).read_bytes()
    (out / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"damaged; delete .*out"):
        retrieval.open(out)
    assert len(retrieval.index(notes, out)) == len(TEXTS)
    (out / name).unlink()
    with pytest.raises(DataError, match=r"damaged; delete|holds no index"):
        retrieval.open(out)


def test_an_older_format_is_one_sentence(notes: Path, tmp_path: Path) -> None:
    retrieval.index(notes, tmp_path / "out")
    file = tmp_path / "out" / "manifest.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "config": record["config"].replace("format = 1", "format = 0")}))
    with pytest.raises(DataError, match="another version"):
        retrieval.open(tmp_path / "out")


@pytest.fixture
def encoder(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Path:
    config = EncoderConfig(
        architecture="ModernBertForMaskedLM", vocab_size=512, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    model = Encoder(config)
    model.initialise(torch.Generator().manual_seed(0))
    save_model(tmp_path / "encoder", model, tiny_tokenizer)
    return tmp_path / "encoder"


def test_vectors_of_an_encoder(
    encoder: Path,
    notes: Path,
    tmp_path: Path,
    tiny_decoder: Callable[..., Decoder],
    tiny_tokenizer: Tokenizer,
) -> None:
    texts = ["a car", "北京是中国的首都。" * 40, "a much longer line about cars and drivers"]
    together = EncoderVectors(encoder).vectors(texts)
    alone = np.concatenate([EncoderVectors(encoder).vectors([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    made = retrieval.index(notes, tmp_path / "out", retrieval.IndexConfig(encoder=str(encoder)))
    assert made.figures["dimensions"] == 32 and len(made.search("the car", 3, "dense")) == 3
    save_model(tmp_path / "decoder", tiny_decoder(), tiny_tokenizer)
    with pytest.raises(CheckpointError, match="holds no encoder"):
        EncoderVectors(tmp_path / "decoder")

"""The loss of answers is what fine-tuning counts, and a judge by likelihood prefers what is likelier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from weft.core.errors import DataError
from weft.data import supervised
from weft.data.answers import AnswerLoader
from weft.data.config import SplitConfig
from weft.eval.answer_loss import answer_losses
from weft.eval.chats import Chat, encoded, prompt_ids, read_chats
from weft.eval.judges import LikelihoodJudge
from weft.eval.judging import Pair
from weft.eval.metrics.bits_per_byte import target_losses
from weft.models import Decoder
from weft.tokenizer import Tokenizer, chat

RECORDS = [
    {
        "messages": [
            {"role": "user", "content": "今天天气怎么样？"}, {"role": "assistant", "content": "很好。"},
        ],
    },
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Emoji?"}, {"from": "gpt", "value": "😀"},
            {"from": "human", "value": "More words"}, {"from": "gpt", "value": "the dog sleeps on"},
        ],
    },
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in RECORDS), encoding="utf-8")
    return file


def test_the_loss_is_that_of_fine_tuning(
    file: Path, tmp_path: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    model = tiny_decoder()
    settings = supervised.SupervisedConfig(form="chat", split=SplitConfig(valid=0.0, test=0.0))
    supervised.prepare([file], tiny_tokenizer, tmp_path / "data", settings)
    loader = AnswerLoader(tmp_path / "data" / "shards", "train", 128, 4)
    batch = loader.gather(range(loader.rows))
    expected = target_losses(model, batch, None)
    found = answer_losses(model, tiny_tokenizer, encoded(tiny_tokenizer, read_chats([file])), rows=2)
    assert found.tokens.sum() == len(expected) == batch.target_count
    assert found.nats.sum() == pytest.approx(expected.sum(), rel=1e-5)
    assert found.bytes.tolist() == [9, 1, 4 + 17] and found.beyond == 0
    # Rows of other lengths beside it change nothing.
    alone = answer_losses(model, tiny_tokenizer, encoded(tiny_tokenizer, read_chats([file])), rows=1)
    assert np.allclose(alone.nats, found.nats, rtol=1e-5)


def test_what_is_asked_is_what_stands_before_the_answer(file: Path, tiny_tokenizer: Tokenizer) -> None:
    chats = read_chats([file])
    assert [one.reference for one in chats] == ["很好。", "3", "the dog sleeps on"]
    assert [one.prompt for one in chats[:2]] == ["今天天气怎么样？", "Add.\n1 2"]
    assert chats[2].prompt == "system: Be brief.\n\nuser: Emoji?\n\nassistant: 😀\n\nuser: More words"
    for one, made in zip(chats, encoded(tiny_tokenizer, chats), strict=True):
        asked = [*tiny_tokenizer.start_ids, *chat.encode(tiny_tokenizer, one.asked)]
        assert prompt_ids(tiny_tokenizer, made) == asked


def test_a_saved_template_writes_the_question(file: Path, tiny_tokenizer: Tokenizer) -> None:
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|im_end|>{% endfor %}"
    own = Tokenizer(
        tiny_tokenizer._special.to_str(), {"eos_token": "<|endoftext|>", "chat_template": template}
    )
    (made,) = encoded(own, read_chats([file])[1:2])
    assert own.decode(prompt_ids(own, made)).endswith("[user]Add.\n1 2<|im_end|>[assistant]")
    assert own.decode(made.ids[slice(*made.answers)]) == "3<|im_end|>"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "#3 is no conversation with an answer: no_answer"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "does not end with a question"),
        (
            {"messages": [{"role": r, "content": "a"} for r in ("user", "assistant", "user")]},
            "does not end with a question and its answer",
        ),
        ({"text": "a"}, "is no conversation"),
    ],
)
def test_an_item_without_an_answer(file: Path, record: object, words: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + "\n" + json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_chats([file])


def test_no_items(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no conversation in"):
        read_chats([tmp_path / "empty.jsonl"])
    with pytest.raises(DataError, match="no file"):
        read_chats([tmp_path / "missing.jsonl"])


def test_answers_beyond_the_context_are_counted(
    tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    chats = [
        Chat("a", [{"role": "user", "content": "more words " * 60}], "the dog"),
        Chat("b", [{"role": "user", "content": "more"}], "words " * 200),
    ]
    made = encoded(tiny_tokenizer, chats)
    found = answer_losses(tiny_decoder(), tiny_tokenizer, made)
    assert found.beyond == 1 and found.tokens[0] > 0 and found.tokens[1] == 0 and found.nats[1] == 0
    assert found.bytes.tolist() == [len("the dog"), 0]


def test_likelihood_judges(tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer) -> None:
    model = tiny_decoder()
    asked = [{"role": "user", "content": "今天"}]

    def mean(text: str) -> float:
        one = answer_losses(model, tiny_tokenizer, encoded(tiny_tokenizer, [Chat("a", asked, text)]))
        return float(one.nats[0] / one.tokens[0])

    judge = LikelihoodJudge(lambda: (model, tiny_tokenizer))
    texts = ("很好。", "the dog", "words " * 200)
    pairs = [Pair("a", asked, "今天", one, other) for one in texts for other in texts]
    found = dict(zip([(one.first, one.second) for one in pairs], judge(pairs), strict=True))
    assert found[texts[0], texts[1]] == pytest.approx(mean(texts[1]) - mean(texts[0]), abs=1e-5)
    assert found[texts[1], texts[0]] == -found[texts[0], texts[1]]
    assert found[texts[0], texts[0]] == found[texts[2], texts[2]] == 0
    # What the context does not hold loses.
    assert found[texts[0], texts[2]] == torch.inf

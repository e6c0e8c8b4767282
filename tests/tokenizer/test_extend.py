"""A larger vocabulary: old ids and scores stay, round trips are exact, and a domain needs fewer tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers

from weft.checkpoint.extend import extend_checkpoint
from weft.checkpoint.huggingface import load_any, save_model
from weft.cli.main import main
from weft.core.errors import DataError, UsageError
from weft.models import Decoder
from weft.models.encdec import EncoderDecoder, Pairs
from weft.models.encdec_config import EncoderDecoderConfig
from weft.models.encoder import Encoder
from weft.models.encoder_config import EncoderConfig
from weft.ops.attention import PackedRows
from weft.ops.both_ways import BothWays
from weft.tokenizer import Tokenizer
from weft.tokenizer.extend import extend

DOMAIN = (
    "Myocardial infarction: the electrocardiogram shows ST-segment elevation.\n",
    "The electrocardiogram after myocardial infarction; troponin 3.2 ng/mL.\n",
    "心肌梗死患者的心电图显示ST段抬高，肌钙蛋白升高。\n",
    "患者心电图正常，肌钙蛋白正常，排除心肌梗死。<|endoftext|> <mask>\n",
)


@pytest.fixture(scope="module")
def larger(tiny_tokenizer: Tokenizer) -> Tokenizer:
    return extend(tiny_tokenizer, DOMAIN * 3, 90).tokenizer


def test_old_tokens_keep_their_ids_and_the_domain_needs_fewer(
    tiny_tokenizer: Tokenizer, larger: Tokenizer
) -> None:
    found = extend(tiny_tokenizer, DOMAIN * 3, 90)
    old, new = (json.loads(t.to_json())["model"] for t in (tiny_tokenizer, found.tokenizer))
    assert all(new["vocab"][token] == number for token, number in old["vocab"].items())
    assert new["merges"][: len(old["merges"])] == old["merges"]
    assert found.tokenizer.vocab_size == 512 + 90 == 512 + len(found.pieces)
    assert found.tokenizer.eos_id == tiny_tokenizer.eos_id
    assert found.tokenizer.special_ids == tiny_tokenizer.special_ids
    assert found.tokenizer.start_ids == tiny_tokenizer.start_ids
    assert found.tokenizer.to_json() == larger.to_json()
    for number, pieces in enumerate(found.pieces):
        assert max(pieces) < 512 and len(pieces) > 1
        assert larger.token_bytes(512 + number) == tiny_tokenizer.decode_bytes(pieces)
    before, after = (sum(map(len, t.encode_batch(DOMAIN))) for t in (tiny_tokenizer, larger))
    assert after < 0.6 * before
    other = "def f(x):\n    return 17\n"
    assert max(larger.encode(other)) < 512 and larger.encode(other) == tiny_tokenizer.encode(other)
    assert tiny_tokenizer.eos_id not in larger.encode("<|endoftext|> <mask>")


@settings(max_examples=100, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from([*DOMAIN, "心电", " 梗", "ST", "<mask>"])).map("".join))
def test_round_trips_stay_exact(larger: Tokenizer, text: str) -> None:
    assert larger.decode(larger.encode(text)) == text
    assert larger.encode_bytes(text.encode()) == larger.encode(text)


def test_files_open_elsewhere_with_the_same_ids(larger: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    larger.save(tmp_path)
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = Tokenizer.load(tmp_path)
    for text in DOMAIN[:3]:
        ids = larger.encode(text)
        assert stock.encode(text, add_special_tokens=False) == ids == again.encode(text)
        assert stock.decode(ids) == text
    if larger.fast_encoder is not None:
        flat, _ = larger.encode_flat(DOMAIN)
        assert flat.tolist() == [one for ids in larger.encode_batch(DOMAIN) for one in ids]


def pieces_with_bytes() -> Tokenizer:
    """BPE over characters as SentencePiece makes it: a mark for spaces, bytes for what is unknown."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁theartof", "▁t", "▁th"]
    vocab = {name: number for number, name in enumerate(dict.fromkeys([*names, "▁the"]))}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    made = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names[:3]])
    return Tokenizer(made.to_str(), {"eos_token": "</s>"})


def test_characters_without_a_token_come_first_where_bytes_spell_them() -> None:
    before = pieces_with_bytes()
    texts = ["the art of the 心电图", "心电图 the art the art 肌"] * 4
    found = extend(before, texts, 12)
    after = found.tokenizer
    names = [json.loads(after.to_json())["model"]["vocab"].get(character) for character in "心电图肌"]
    assert sorted(names) == [before.vocab_size + n for n in range(4)]
    for name, character in zip(names, "心电图肌", strict=True):
        pieces = found.pieces[name - before.vocab_size]
        assert pieces == before.encode(character)[1:] and len(pieces) == 3
    assert after.token_id("▁心电图") is not None and after.token_id("▁art") is not None
    for text in texts:
        assert after.decode(after.encode(text)) == text == before.decode(before.encode(text))
        assert len(after.encode(text)) < 0.5 * len(before.encode(text))
    assert after.eos_id == before.eos_id and after.encode("the") == before.encode("the")


def encoder() -> Encoder:
    model = Encoder(EncoderConfig(512, 32, 48, 2, 2))
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.output.bias.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


def writer() -> EncoderDecoder:
    model = EncoderDecoder(EncoderDecoderConfig(512, 32, 16, 48, 2, 2, 2))
    model.initialise(torch.Generator().manual_seed(0))
    return model.eval()


def scores(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits [T, V] of a text."""
    tokens, start = torch.tensor([ids]), torch.zeros(1, len(ids), dtype=torch.int32)
    with torch.no_grad():
        if isinstance(model, EncoderDecoder):
            hidden = model(Pairs(tokens, start, tokens, start, start))
        else:
            hidden = model(tokens, BothWays(start) if isinstance(model, Encoder) else PackedRows(start, None))
        if isinstance(model, EncoderDecoder):
            return model.output(hidden)[0]
        return model.logits(hidden)[0]


@pytest.mark.parametrize("kind", ["tied", "untied", "padded", "encoder", "encdec"])
def test_old_scores_stay_and_new_rows_are_means(
    kind: str, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    make: dict[str, Callable[[], Any]] = {
        "tied": lambda: tiny_decoder(tie_word_embeddings=True),
        "untied": lambda: tiny_decoder(tie_word_embeddings=False),
        "padded": lambda: tiny_decoder(vocab_size=700),
        "encoder": encoder,
        "encdec": writer,
    }
    before = make[kind]()
    save_model(tmp_path / "old", before, tiny_tokenizer, dtype=torch.float32)
    (tmp_path / "old" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    record = extend_checkpoint(tmp_path / "old", DOMAIN * 3, 90, tmp_path / "new")
    after, tokenizer = load_any(tmp_path / "new"), Tokenizer.load(tmp_path / "new")
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    assert record["figures"]["new_tokens"] == 90 and tokenizer.vocab_size == 602
    assert after.config.vocab_size == (704 if kind == "padded" else 640)
    ids = tiny_tokenizer.encode("The quick brown fox 今天天气很好")
    assert tokenizer.encode("The quick brown fox 今天天气很好") == ids
    old, new = scores(before, ids), scores(after.eval(), ids)
    assert torch.allclose(old[:, :512], new[:, :512], rtol=0, atol=1e-5)
    pieces = extend(tiny_tokenizer, DOMAIN * 3, 90).pieces
    for name in {"embedding", *(("output",) if kind in ("untied", "encdec") else ())}:
        rows, grown = (getattr(model, name).weight for model in (before, after))
        wanted = torch.stack([rows[one].mean(0) for one in pieces])
        assert torch.equal(grown[:512], rows[:512])
        assert torch.allclose(grown[512:602], wanted, atol=1e-6)
        if kind == "padded":
            assert torch.equal(grown[602:700], rows[602:700])


def test_the_verb_and_what_it_refuses(
    tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer, data_folder: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "old", tiny_decoder(), tiny_tokenizer, dtype=torch.float32)
    (tmp_path / "domain.txt").write_text("".join(DOMAIN * 4), encoding="utf-8")
    given = ["tokenizer", "extend", str(tmp_path / "old"), "--data", str(tmp_path / "domain.txt"),
             "--data", str(data_folder), "--add", "64", "--out", str(tmp_path / "new")]  # fmt: skip
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0 and "64 new tokens, 576 in all" in result.output, result.output
    assert load_any(tmp_path / "new").config.vocab_size == 576
    again = CliRunner().invoke(main, given)
    assert again.exit_code == 2 and "holds something already" in again.output
    with pytest.raises(UsageError, match="at least 1"):
        extend(tiny_tokenizer, DOMAIN, 0)
    with pytest.raises(DataError, match="need no new token"):
        extend(tiny_tokenizer, ["a b c d"], 5)
    unigram = tokenizers.Tokenizer(models.Unigram([("<eos>", 0.0), ("a", -1.0)], unk_id=0))
    with pytest.raises(DataError, match="is a Unigram and cannot be extended"):
        extend(Tokenizer(unigram.to_str()), DOMAIN, 5)

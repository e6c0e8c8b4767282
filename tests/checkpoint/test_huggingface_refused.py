"""Folders that are damaged, unsafe or foreign: one clear sentence each, and nothing of them is run."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.checkpoint.huggingface import load_model, resolve, save_model
from weft.core.errors import CheckpointError, ResourceError
from weft.models import Decoder
from weft.tokenizer import Tokenizer

Edit = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path, tiny_decoder: Callable[..., Decoder]) -> Path:
    save_model(tmp_path / "good", tiny_decoder(tie_word_embeddings=False), None)
    return tmp_path / "good"


@pytest.fixture
def sharded(tmp_path: Path, tiny_decoder: Callable[..., Decoder]) -> Path:
    save_model(tmp_path / "sharded", tiny_decoder(), None, max_shard_bytes=30_000)
    return tmp_path / "sharded"


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


def change(file: Path, **values: Any) -> None:
    table = json.loads(file.read_text())
    table.update(values)
    file.write_text(json.dumps({key: value for key, value in table.items() if value is not ...}))


class Trap:
    """Pickled, it would create a file when it is opened."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_and_never_opened(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    text = refusal(folder)
    assert name in text and "safetensors" in text
    (folder / "config.json").unlink()
    assert "pickle" in refusal(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_beside_safetensors_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    load_model(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_under_the_name_of_safetensors(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert "not a whole safetensors file" in refusal(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_asks_for_its_own_code(folder: Path, name: str) -> None:
    (folder / name).exists() or (folder / name).write_text("{}")
    change(folder / name, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    assert "code of its own" in refusal(folder)


def test_a_missing_or_damaged_config(folder: Path) -> None:
    for content in ("{", "[1]", "[" * 100_000, '{"a": \xff}'):
        (folder / "config.json").write_text(content, encoding="latin-1")
        assert "config.json" in refusal(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architectures": ["LlamaForCausalLm"]}, "LlamaForCausalLM"),
        ({"architectures": ["GPT2LMHeadModel"]}, "Qwen3ForCausalLM"),
        ({"architectures": ..., "model_type": "gemma"}, "gemma"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": 10**30}, "hidden_size"),
        ({"hidden_size": 2**31 - 1, "intermediate_size": 2**31 - 1, "head_dim": 2**30}, "sizes"),
        ({"hidden_size": 48}, "shape"),
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"num_hidden_layers": 3}, "lack model.layers.2."),
        ({"num_hidden_layers": 1}, "hold model.layers.1."),
        ({"num_attention_heads": 0, "head_dim": None}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_key_value_heads": ...}, "lacks num_key_value_heads"),
        ({"head_dim": 7}, "odd"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"tie_word_embeddings": True}, "two different ones"),
        ({"attention_bias": True}, "lack model.layers.0.self_attn"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "lacks low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor"),
        ({"rope_scaling": "linear"}, "table"),
        (
            {"rope_scaling": ..., "rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "kinds of layers",
        ),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "mixes layers"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "mixes layers"),
        ({"layer_types": 3}, "layer_types"),
        ({"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 0}, "sliding_window"),
    ],
)
def test_a_config_that_weft_cannot_compute_exactly(folder: Path, values: dict[str, Any], words: str) -> None:
    change(folder / "config.json", **values)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_experts": 10**9}, "experts"),
        ({"num_experts": 5}, "lack model.layers.0.mlp.experts.4"),
        ({"num_experts": 3}, "hold model.layers.0.mlp.experts.3"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"moe_intermediate_size": 8}, "asks for [8, 32]"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({"norm_topk_prob": 1}, "norm_topk_prob"),
        ({"mlp_only_layers": "1"}, "mlp_only_layers"),
        ({"mlp_only_layers": [1]}, "lack model.layers.1.mlp.down_proj"),
    ],
)
def test_a_mixture_of_experts_that_does_not_fit(
    tmp_path: Path, tiny_decoder: Callable[..., Decoder], values: dict[str, Any], words: str
) -> None:
    shape = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    save_model(tmp_path, tiny_decoder(architecture="Qwen3MoeForCausalLM", **shape), None)
    change(tmp_path / "config.json", **values)
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated_safetensors(folder: Path, cut: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    assert "not a whole safetensors file" in refusal(folder)


def test_garbage_for_safetensors(folder: Path) -> None:
    for content in (os.urandom(4096), b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        (folder / "model.safetensors").write_bytes(content)
        assert "not a whole safetensors file" in refusal(folder)


def test_weights_that_do_not_fit(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    norm = weights.pop("model.norm.weight")
    save_file(weights, file)
    assert "lack model.norm.weight" in refusal(folder)
    save_file({**weights, "model.norm.weight": norm[:-1].clone()}, file)
    assert "shape [31]" in refusal(folder)
    save_file({**weights, "model.norm.weight": norm, "model.extra.weight": norm.clone()}, file)
    assert "hold model.extra.weight" in refusal(folder)
    save_file({**weights, "model.norm.weight": norm.to(torch.int8)}, file)
    assert "I8" in refusal(folder)
    derived = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file({**weights, "model.norm.weight": norm, **derived}, file)
    load_model(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refusal(folder)


def test_an_equal_copy_of_a_tied_matrix_is_dropped(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, file)
    change(folder / "config.json", tie_word_embeddings=True)
    model = load_model(folder)
    assert model.output.weight is model.embedding.weight


def test_an_absent_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    assert f"lacks {shard.name}" in refusal(sharded)


def test_a_shard_in_the_place_of_another(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    assert "does not hold" in refusal(sharded)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": []}'])
def test_a_damaged_index(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(sharded)


@pytest.mark.parametrize(
    "place", ["../good/model.safetensors", "/{absolute}", "sub/../x.safetensors", "..", "x\0.safetensors"]
)
def test_an_index_that_leaves_the_folder(folder: Path, sharded: Path, place: str) -> None:
    outside = place.format(absolute=str(folder / "model.safetensors").lstrip("/"))
    index = sharded / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    change(index, weight_map=dict.fromkeys(table["weight_map"], outside))
    refusal(sharded)


def test_links_that_leave_the_folder(folder: Path, sharded: Path, tmp_path: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[0]
    moved = tmp_path / "elsewhere.safetensors"
    shard.rename(moved)
    shard.symlink_to(moved)
    assert "outside its folder" in refusal(sharded)
    shard.unlink()
    shard.symlink_to(shard)
    refusal(sharded)

    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    assert "outside its folder" in refusal(folder)


def test_a_template_from_outside_the_folder(folder: Path, tmp_path: Path) -> None:
    """Whoever may ask a model could read any file of the machine in its prompts."""
    (tmp_path / "secret").write_text("secret")
    (folder / "chat_template.jinja").symlink_to(tmp_path / "secret")
    assert "outside its folder" in refusal(folder)


def test_a_folder_of_the_hugging_face_cache_opens(folder: Path, tmp_path: Path) -> None:
    """There every file is a link from snapshots/REVISION to blobs, and that is the one way out allowed."""
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        (blobs / f"hash-of-{file.name}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/hash-of-{file.name}")
    expected = dict(load_model(folder).named_parameters())
    for name, parameter in load_model(snapshot).named_parameters():
        assert parameter.equal(expected[name]), name


def test_resolve_takes_a_run_or_its_model(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    folder.rename(run / "model")
    assert resolve(run) == resolve(str(run / "model")) == run / "model"
    for path, words in (
        (tmp_path / "runs" / "dmo", str(run)),
        (tmp_path / "rums" / "demo", str(tmp_path / "runs")),
        (run / "model" / "config.json", "is a file"),
        (tmp_path / "runs", "no config.json"),
    ):
        with pytest.raises(CheckpointError, match="checkpoint") as caught:
            resolve(path)
        assert words in str(caught.value)


def test_a_tokenizer_larger_than_the_model(
    tmp_path: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    with pytest.raises(CheckpointError, match="vocab_size = 300"):
        save_model(tmp_path / "model", tiny_decoder(vocab_size=300), tiny_tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_the_old_folder_whole(
    folder: Path, tiny_decoder: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ResourceError, match="larger than this process may write"):
            save_model(folder, tiny_decoder(seed=1), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]

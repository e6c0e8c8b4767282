"""vLLM behind the same front: checkpoints open there as they are, and greedy tokens are equal.

Needs an interpreter with vLLM: ``WEFT_VLLM_PYTHON``, or the environment that bench/decode.py makes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from servers import running

from weft.checkpoint.huggingface import save_model
from weft.server.engine import EngineOptions, Patience

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("WEFT_VLLM_PYTHON", str(Path.home() / ".cache/weft-bench/vllm/bin/python"))
SMALL = {"max_model_len": 128, "gpu_memory_utilization": 0.1, "enforce_eager": True}
ASKED = {"prompt": list(range(60, 90)), "max_tokens": 24, "temperature": 0, "ignore_eos": True, "logprobs": 2}
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 32}


@pytest.fixture(scope="module", params=["Qwen3ForCausalLM", "LlamaForCausalLM"])
def checkpoint(request, tmp_path_factory, tiny_decoder, tiny_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("vllm") / request.param
    shape = {**SHAPE, "architecture": request.param, "qk_norm": request.param == "Qwen3ForCausalLM"}
    save_model(folder, tiny_decoder(max_position_embeddings=128, **shape), tiny_tokenizer)
    return folder


@pytest.fixture(scope="module")
def vllm(checkpoint):
    if not Path(PYTHON).exists():
        pytest.skip(f"there is no interpreter with vLLM at {PYTHON}")
    options = EngineOptions(
        str(checkpoint), "float32", max_sequences=4, kind="vllm", python=PYTHON, settings=SMALL
    )
    with running({"tiny": options}, patience=Patience(load=400)) as found:
        yield found


@pytest.fixture(scope="module")
def ours(checkpoint):
    with running({"tiny": EngineOptions(str(checkpoint), "float32", max_sequences=4)}) as found:
        yield found


def test_greedy_tokens_and_log_probabilities_are_ours(vllm, ours):
    theirs, own = (server.post("/v1/completions", ASKED).json()["choices"][0] for server in (vllm, ours))
    # Texts may differ where a character is cut in two: each engine has its own way with half of one.
    theirs, own = theirs["logprobs"], own["logprobs"]
    assert theirs["tokens"] == own["tokens"]
    assert theirs["token_logprobs"] == pytest.approx(own["token_logprobs"], abs=1e-3)
    assert list(map(sorted, theirs["top_logprobs"])) == list(map(sorted, own["top_logprobs"]))


def test_a_stream_ends_with_its_usage(vllm):
    body = {
        "messages": [{"role": "user", "content": "好"}],
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
    }
    body |= {"stream_options": {"include_usage": True}, "ignore_eos": True}
    with vllm.http.stream("POST", "/v1/chat/completions", json=body) as streamed:
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert '"completion_tokens":5' in lines[-2].replace(" ", "")


def test_several_at_once_and_one_that_leaves(vllm):
    whole = [vllm.post("/v1/completions", {**ASKED, "n": 2}).json() for _ in range(2)]
    assert len(whole[0]["choices"]) == 2
    with pytest.raises(httpx.ReadTimeout):
        vllm.post("/v1/completions", {**ASKED, "max_tokens": 90}, timeout=0.01)
    assert vllm.post("/v1/completions", ASKED).status_code == 200


def test_what_vllm_does_not_do_here_is_a_400(vllm):
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    talk = {"messages": [{"role": "user", "content": "好"}], "response_format": schema}
    assert vllm.post("/v1/chat/completions", talk).status_code == 400
    assert vllm.post("/v1/embeddings", {"input": "好"}).status_code == 400


def test_an_interpreter_without_vllm_is_one_sentence(checkpoint, tmp_path):
    command = [sys.executable, "-m", "weft", "serve", str(checkpoint), "--engine", "vllm", "--port", "0"]
    found = subprocess.run(
        [*command, "--engine-python", "/nowhere"], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 2
    assert "/nowhere cannot be run" in found.stderr and "Traceback" not in found.stderr
    here = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert here.returncode != 0
    assert "vLLM cannot load" in here.stderr and "Traceback" not in here.stderr

"""llama.cpp opens what is exported and writes what Weft writes.

Needs an interpreter with llama-cpp-python: ``WEFT_LLAMACPP_PYTHON``, or the environment that bench/decode.py
makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import weft
from weft.checkpoint.convert import ConvertConfig, convert
from weft.core import config
from weft.engine import SamplingParams
from weft.train.config import TrainRun
from weft.train.session import train

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("WEFT_LLAMACPP_PYTHON", str(Path.home() / ".cache/weft-bench/llamacpp/bin/python"))
SCRIPT = """
import json, sys
import llama_cpp, numpy
model = llama_cpp.Llama(sys.argv[1], n_ctx=128, logits_all=False, verbose=False, n_threads=1, use_mmap=False)
prompts, ours = json.loads(sys.argv[2])
for prompt, answer in zip(prompts, ours):
    found = []
    for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
        found.append(int(token))
        if len(found) == 24:
            break
    beside = []
    model.reset()
    model.eval(prompt)
    for token in answer:
        scores = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        beside.append(int(numpy.ctypeslib.as_array(scores, shape=(model.n_vocab(),)).argmax()))
        model.eval([token])
    print(json.dumps([found, beside]))
"""
TEXTS = ("def add(a, b):\\n    return", "import os\\n", "class Model:\\n    def __init__(self", "for name in")
NEW = 24


@pytest.fixture(scope="module", params=["LlamaForCausalLM", "Qwen3ForCausalLM"])
def trained(request, data_folder, tmp_path_factory) -> Path:
    """Some steps on source code: a model that has favourites among its tokens."""
    folder = tmp_path_factory.mktemp("trained") / request.param
    settings = [
        *(f"data.path={data_folder}", "data.sequence_length=128", f"model.architecture={request.param}"),
        *("model.hidden_size=64", "model.head_dim=32", "model.num_hidden_layers=2", "train.steps=150"),
        *("train.batch_tokens=2048", "train.arithmetic=fp32", "optimizer.learning_rate=0.01"),
    ]
    train(config.load(TrainRun, None, settings), folder, say=lambda text: None)
    return folder / "model"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "alone", "least", "tie"),
    [
        ("float32", 1.0, 1.0, 0.0),
        ("float16", 0.7, 0.97, 0.05),
        ("q8_0", None, 0.9, 0.2),
        ("q4_0", 0.1, 0.7, 1.5),
    ],
)
def test_greedy_tokens_are_ours(trained, tmp_path, kind, alone, least, tie):
    """Equal, or different first where the model hardly prefers one: less than ``tie`` nats lie between. And
    ``least`` of them are equal where both go on from ours: behind a difference nothing can be compared."""
    if not Path(PYTHON).exists():
        pytest.skip(f"there is no interpreter with llama-cpp-python at {PYTHON}")
    convert(trained, tmp_path / "gguf", ConvertConfig(dtype=kind, format="gguf"), command="export")
    (file,) = (tmp_path / "gguf").glob("*.gguf")
    llm = weft.load(trained, "float32", "cpu").llm
    prompts = [llm.encode(text) for text in TEXTS]
    params = SamplingParams(max_tokens=NEW, temperature=0.0, ignore_eos=True, logprobs=20)
    ours = [llm.add(prompt, params) for prompt in prompts]
    while not all(sequence.finished for sequence in ours):
        llm.step()
    asked = json.dumps([prompts, [one.generated for one in ours]])
    done = subprocess.run(
        [PYTHON, "-c", SCRIPT, str(file), asked], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    free = forced = 0
    for one, (other, beside) in zip(ours, theirs, strict=True):
        assert len(other) == NEW or one.generated[len(other)] in llm.ends
        free += _first_difference(one, other, tie)
        forced += sum(a == b for a, b in zip(one.generated, beside, strict=True))
    shares = [count / (NEW * len(TEXTS)) for count in (free, forced)]
    print(f"{kind}: {shares[0]:.0%} up to the first difference, {shares[1]:.0%} where both go on from ours")
    assert shares[1] >= least and (alone is None or shares[0] >= alone)


def _first_difference(one, other: list[int], tie: float) -> int:
    """How many tokens are equal before one differs, which must be as good as likely."""
    same = [a == b for a, b in zip(one.generated, other, strict=False)]
    if False not in same:
        return NEW
    first = same.index(False)
    best = one.logprobs[first]
    assert best.logprob - dict(best.top).get(other[first], -99.0) < tie
    return first

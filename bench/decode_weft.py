"""Weft's engine, scheduler and sampler included, as an engine of bench/decode.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import weft
from weft.core.version import __version__
from weft.engine import LLM, SamplingParams
from weft.ops.attention import PackedRows

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from decode_job import Step, Tokens, serve


class Run:
    def __init__(self, settings: dict[str, Any]):
        torch.set_num_threads(settings["threads"])
        loaded = weft.load(settings["model"], settings["weights"], "cpu")
        torch.set_num_threads(settings["threads"])
        self.model = loaded.llm.runner.model
        budget = settings["context"] * settings["sequences"]
        # Random models repeat themselves, and no peer guesses: every token is to be one pass of the model.
        self.llm = LLM(
            self.model,
            loaded.tokenizer,
            max_sequences=settings["sequences"],
            token_budget=budget,
            speculation=False,
        )
        # The peers write to their whole cache at the start; ours takes memory when a block is first used.
        pages = self.llm.runner.pages
        for tensor in (*pages.keys, *pages.values):
            tensor.zero_()

    def __call__(self, prompts: Tokens, new: int) -> Step:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        sequences = [self.llm.add(prompt, params) for prompt in prompts]
        given = [len(prompt) for prompt in prompts]
        for step in range(new):
            while any(len(s.tokens) < n + step + 1 for s, n in zip(sequences, given, strict=True)):
                for sequence in self.llm.step():
                    if sequence.failure is not None:
                        raise sequence.failure
            yield [s.tokens[n + step] for s, n in zip(sequences, given, strict=True)]

    @torch.inference_mode()
    def logits(self, prompt: list[int]) -> list[float]:
        rows = PackedRows(torch.zeros(1, len(prompt), dtype=torch.int32))
        hidden = self.model(torch.tensor([prompt]), rows)[:, -1]
        return self.model.logits(hidden)[0].float().tolist()


def start(settings: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    run = Run(settings)
    versions = {"weft": __version__, "torch": torch.__version__}
    return {"system": f"weft {settings['weights']}", "versions": versions}, run


if __name__ == "__main__":
    serve(start)

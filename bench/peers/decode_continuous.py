"""transformers' continuous batching, as an engine of bench/decode.py: its manager, thread and paged cache.

Its cache is as large as the jobs need, and a step may take all prompts at once: its defaults are for GPUs.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import transformers
from decode_job import Step, Tokens, serve

PAGE = 256


class Run:
    def __init__(self, settings: dict[str, Any]):
        torch.set_num_threads(settings["threads"])
        kind = getattr(torch, settings.get("dtype", "bfloat16"))
        model = transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=kind).eval()
        pages = settings["sequences"] * -(-settings["context"] // PAGE)
        # -1: no token ends an answer.
        self.manager = model.init_continuous_batching(
            transformers.GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=1),
            transformers.ContinuousBatchingConfig(
                page_size=PAGE, num_blocks=pages, max_batch_tokens=settings["sequences"] * 64
            ),
        )
        self.manager.start()

    def __call__(self, prompts: Tokens, new: int) -> Step:
        names = self.manager.add_requests(prompts, max_new_tokens=new, streaming=True)
        found: dict[str, list[int]] = {name: [] for name in names}
        for step in range(new):
            while any(len(tokens) <= step for tokens in found.values()):
                result = self.manager.get_result(timeout=600)
                assert result is not None and not result.error, result
                found[result.request_id] = list(result.generated_tokens)
            yield [found[name][step] for name in names]


def start(settings: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    run = Run(settings)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {
        "system": f"transformers, continuous {settings.get('dtype', 'bfloat16')}",
        "versions": versions,
    }, run


if __name__ == "__main__":
    serve(start)
    os._exit(0)  # the manager's thread would wait for requests for ever

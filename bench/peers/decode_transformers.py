"""transformers, as an engine of bench/decode.py: one forward pass a step with its dynamic cache.

All prompts of a job have one length, so a plain batch without padding is the best that it can do.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from decode_job import Step, Tokens, serve


class Run:
    def __init__(self, settings: dict[str, Any]):
        torch.set_num_threads(settings["threads"])
        kind = getattr(torch, settings.get("dtype", "bfloat16"))
        self.model = transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=kind).eval()

    @torch.inference_mode()
    def __call__(self, prompts: Tokens, new: int) -> Step:
        cache = transformers.DynamicCache(config=self.model.config)
        tokens = torch.tensor(prompts)
        for _ in range(new):
            out = self.model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            tokens = out.logits[:, -1:].argmax(-1)
            yield tokens[:, 0].tolist()

    @torch.inference_mode()
    def logits(self, prompt: list[int]) -> list[float]:
        return self.model(torch.tensor([prompt]), logits_to_keep=1).logits[0, -1].float().tolist()


def start(settings: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    run = Run(settings)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"system": f"transformers {settings.get('dtype', 'bfloat16')}", "versions": versions}, run


if __name__ == "__main__":
    serve(start)

"""nano-vllm on a workload given as JSON on standard input; prints the seconds that it took.

{"model": folder, "prompts": lists of token ids, "new": tokens of each answer}
"""

from __future__ import annotations

import json
import sys
import time

from nanovllm import LLM, SamplingParams


def main() -> None:
    job = json.load(sys.stdin)
    llm = LLM(job["model"], enforce_eager=False, max_model_len=4096)
    params = [SamplingParams(temperature=0.6, ignore_eos=True, max_tokens=new) for new in job["new"]]
    llm.generate([job["prompts"][0]], params[:1], use_tqdm=False)
    began = time.perf_counter()
    llm.generate(job["prompts"], params, use_tqdm=False)
    print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()

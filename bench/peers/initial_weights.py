"""Draw the first weights of a Llama of a given shape and save them as a Hugging Face folder.

    python initial_weights.py SHAPE.json FOLDER      (run with the Python of the Hugging Face environment)

transformers draws them, so that no system under test starts from weights of its own making.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

if __name__ == "__main__":
    torch.manual_seed(0)
    config = LlamaConfig(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(sys.argv[2])

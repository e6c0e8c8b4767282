"""What a layer of a decode step costs besides arithmetic and attention, in microseconds.

    python bench/step_overhead.py

Processor time of one thread for one row: layers whose matrices are next to nothing (width 64), so what is
left is Python, the native call and the threads' meetings; the difference between 24 and 4 layers, by layer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from weft.engine.weights import PackedDecoder
from weft.models import Decoder, DecoderConfig
from weft.ops.packed import Format

REPEATS = 400


class NoAttention:
    """An attention context that answers at once."""

    def __init__(self, config: DecoderConfig):
        self.answer = torch.zeros(1, 1, config.num_attention_heads, config.head_dim, dtype=torch.bfloat16)

    def positions(self, tokens_BT: Tensor) -> Tensor:
        return torch.zeros_like(tokens_BT)

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        return self.answer


def microseconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return statistics.median(times) * 1e6


def packed(config: DecoderConfig, form: Format) -> PackedDecoder:
    return PackedDecoder(Decoder(config).requires_grad_(False), form, torch.bfloat16)


def forward(decoder: PackedDecoder) -> Callable[[], object]:
    context, token = NoAttention(decoder.config), torch.zeros(1, 1, dtype=torch.int64)
    return lambda: decoder(token, context)


def calls(form: Format) -> float:
    small = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "head_dim": 64}
    small |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    few, many = (DecoderConfig(**small, num_hidden_layers=layers) for layers in (4, 24))
    return (microseconds(forward(packed(many, form))) - microseconds(forward(packed(few, form)))) / 20


def main() -> None:
    torch.set_num_threads(1)
    for form in (Format.BFLOAT16, Format.INT8, Format.INT4):
        print(f"{form.name.lower():<9} {calls(form):5.1f} us a layer")


if __name__ == "__main__":
    main()

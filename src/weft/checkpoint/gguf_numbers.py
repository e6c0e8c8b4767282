"""Tensors as the bytes of GGUF files: fp32, fp16, bf16 and llama.cpp's blocks of 32 numbers.

A block of q8_0 is an fp16 scale and 32 int8 numbers, one of q4_0 an fp16 scale and 32 nibbles; see
``ggml-common.h`` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BLOCK = 32

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """A type of tensor: llama.cpp's number for it, the number for a file of it, and how it is written."""

    tensor_type: int
    file_type: int
    encode: Callable[[Tensor], bytes]
    blocks: bool = False

    def fits(self, tensor: Tensor) -> bool:
        """Whether rows of ``tensor`` are whole blocks."""
        return not self.blocks or tensor.shape[-1] % BLOCK == 0


def _fp32(tensor: Tensor) -> bytes:
    return tensor.float().contiguous().numpy().tobytes()


def _fp16(tensor: Tensor) -> bytes:
    return tensor.float().half().contiguous().numpy().tobytes()


def _bf16(tensor: Tensor) -> bytes:
    return tensor.bfloat16().contiguous().view(torch.int16).numpy().tobytes()


def _q8_0(tensor: Tensor) -> bytes:
    """The largest number of a block becomes 127."""
    blocks = _blocks(tensor)
    scales = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    q = np.rint(blocks * _inverse(scales)).astype(np.int8)
    return _joined(scales, q.view(np.uint8))


def _q4_0(tensor: Tensor) -> bytes:
    """The number of the largest size in a block becomes -8; stored is q + 8."""
    blocks = _blocks(tensor)
    at = np.abs(blocks).argmax(-1)[:, None]
    scales = np.take_along_axis(blocks, at, -1) / np.float32(-8)
    q = np.clip(np.floor(blocks * _inverse(scales) + np.float32(8.5)), 0, 15).astype(np.uint8)
    low, high = q[:, : BLOCK // 2], q[:, BLOCK // 2 :]
    return _joined(scales, low | high << 4)


def _blocks(tensor: Tensor) -> Floats:
    numbers: Floats = tensor.float().contiguous().numpy().reshape(-1, BLOCK)
    return numbers


def _inverse(scales: Floats) -> Floats:
    return np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)


def _joined(scales: Floats, q: npt.NDArray[np.uint8]) -> bytes:
    heads = scales.astype("<f2").view(np.uint8).reshape(len(q), 2)
    return np.concatenate((heads, q), axis=1).tobytes()


FP32 = Kind(0, 0, _fp32)
FP16 = Kind(1, 1, _fp16)
Q8_0 = Kind(8, 7, _q8_0, blocks=True)
KINDS = {
    "float32": FP32,
    "float16": FP16,
    "bfloat16": Kind(30, 32, _bf16),
    "q8_0": Q8_0,
    "q4_0": Kind(2, 2, _q4_0, blocks=True),
}

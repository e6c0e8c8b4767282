"""Rotary position embeddings (RoFormer, arXiv:2104.09864) in the half-split layout of Llama checkpoints.

Dimensions: B batch rows, T positions, H heads, D head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """fp32 [D/2]: the angle each pair of dimensions turns per position."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return 1.0 / (theta**exponent)


def scale_llama3(
    frequencies: Tensor, factor: float, low_freq_factor: float, high_freq_factor: float, original_context: int
) -> Tensor:
    """Llama 3's stretch: slow dimensions are divided by ``factor``, fast ones kept, the rest blended."""
    wavelength = 2 * math.pi / frequencies
    blend = (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blended = (1 - blend) * frequencies / factor + blend * frequencies
    low, high = original_context / low_freq_factor, original_context / high_freq_factor
    stretched = torch.where(wavelength > low, frequencies / factor, blended)
    return torch.where(wavelength < high, frequencies, stretched)


def rotation(positions_BT: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, fp32 [B, T, D/2], of the angle of every position."""
    angles = positions_BT.unsqueeze(-1).float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + D/2]); computed in fp32, returned in the dtype of ``x``."""
    first, second = x_BTHD.float().chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x_BTHD.dtype)

"""Published figures of common devices, by short name. Dense rates: twice as much with 2:4 sparsity is not
used.

Rates, memory and bandwidths are the makers' data sheets; shares of them that real work reaches are
assumptions, the same for every device of a maker, until ``weft plan --calibrate`` has measured. Prices
are given by the user.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.parallel.planner.hardware import GIB, Cluster, Device, Link


@dataclass(frozen=True)
class Profile:
    """A device, how many share a node, its link inside the node (bytes/s, one direction) and out of it."""

    device: Device
    per_node: int
    inside: Link
    between: Link
    host_memory: float = 1024 * GIB

    def cluster(self, nodes: int, per_node: int) -> Cluster:
        """``nodes`` hosts with ``per_node`` of these."""
        device, inside, between = self.device, self.inside, self.between
        name = f"{nodes * per_node} x {device.name}"
        return Cluster(name, nodes, per_node, device, inside, between, self.host_memory)


# One 400 Gbit/s and one 200 Gbit/s adapter a device; the share of the line rate that large messages reach.
_IB400, _IB200, _ETHERNET25 = Link(8e-6, 42e9), Link(8e-6, 21e9), Link(30e-6, 2.6e9)
# PyTorch's fused attention is FlashAttention-2, which reaches 35 % of an H100 (arXiv:2407.08608, abstract).
_FA2_ON_HOPPER = 0.35
_NVLINK4, _NVLINK3, _NVLINK5 = Link(3e-6, 370e9), Link(3e-6, 240e9), Link(3e-6, 740e9)
_PCIE4, _PCIE5 = Link(8e-6, 20e9), Link(8e-6, 42e9)


def _gpu(
    name: str, memory: float, bandwidth: float, bf16: float, fp32: float, source: str, **more: float
) -> Device:
    """``memory`` in GiB (the maker's GB by 1.074, less what is reserved), TB/s, TFLOP/s."""
    fp8 = more.pop("fp8", 0.0)
    rates = [("bf16", bf16 * 1e12), ("fp32", fp32 * 1e12)] + ([("fp8", fp8 * 1e12)] if fp8 else [])
    return Device(name, memory * GIB, bandwidth * 1e12, tuple(rates), source=source, **more)  # type: ignore[arg-type]


PROFILES: dict[str, Profile] = {
    "h100": Profile(
        _gpu("h100", 79.2, 3.35, 989.4, 66.9, "NVIDIA H100 SXM5 80 GB data sheet", fp8=1978.9,
             attention_share=_FA2_ON_HOPPER),
        8, _NVLINK4, _IB400,
    ),
    "h100-pcie": Profile(
        _gpu("h100-pcie", 79.2, 2.0, 756.0, 51.0, "NVIDIA H100 PCIe 80 GB data sheet", fp8=1513.0,
             attention_share=_FA2_ON_HOPPER),
        8, _PCIE5, _IB200,
    ),
    "h100-96g-500w": Profile(
        _gpu("h100-96g-500w", 94.5, 2.4, 989.4, 66.9, "torchtitan's benchmark machine (Grand Teton, HBM2e, "
             "500 W): 96 GB and 2.4 TB/s as its authors state; rates as H100 SXM5", fp8=1978.9,
             matrix_share=0.6, attention_share=_FA2_ON_HOPPER),
        8, _NVLINK4, _IB400,
    ),
    "h200": Profile(
        _gpu("h200", 139.8, 4.8, 989.4, 66.9, "NVIDIA H200 SXM 141 GB data sheet", fp8=1978.9,
             attention_share=_FA2_ON_HOPPER),
        8, _NVLINK4, _IB400,
    ),
    "b200": Profile(
        _gpu("b200", 178.0, 8.0, 2250.0, 80.0, "NVIDIA HGX B200 data sheet, an eighth of the board",
             fp8=4500.0, matrix_share=0.66, attention_share=_FA2_ON_HOPPER),
        8, _NVLINK5, _IB400,
    ),
    "a100": Profile(
        _gpu("a100", 79.3, 2.04, 312.0, 19.5, "NVIDIA A100 SXM4 80 GB data sheet", matrix_share=0.8),
        8, _NVLINK3, _IB200,
    ),
    "a100-40g": Profile(
        _gpu("a100-40g", 39.4, 1.56, 312.0, 19.5, "NVIDIA A100 SXM4 40 GB data sheet", matrix_share=0.8),
        8, _NVLINK3, _IB200,
    ),
    "l40s": Profile(
        _gpu("l40s", 44.5, 0.864, 362.0, 91.6, "NVIDIA L40S data sheet", fp8=733.0, matrix_share=0.65),
        8, _PCIE4, _IB200,
    ),
    "rtx4090": Profile(
        _gpu("rtx4090", 23.5, 1.008, 165.2, 82.6, "NVIDIA Ada GPU architecture white paper (bf16 with fp32 "
             "accumulation)", fp8=330.3, matrix_share=0.85),
        8, Link(15e-6, 12e9), _ETHERNET25, 256 * GIB,
    ),
    "mi300x": Profile(
        _gpu("mi300x", 191.5, 5.3, 1307.4, 163.4, "AMD Instinct MI300X data sheet", fp8=2614.9,
             matrix_share=0.5, attention_share=0.3),
        8, Link(5e-6, 300e9), _IB400,
    ),
    "mi250x": Profile(
        _gpu("mi250x", 63.5, 1.6, 191.5, 47.9, "AMD Instinct MI250X data sheet, one of its two dies",
             matrix_share=0.6, attention_share=0.3),
        8, Link(5e-6, 80e9), _IB200,
    ),
    "ascend910b": Profile(
        _gpu("ascend910b", 60.5, 1.6, 376.0, 94.0, "Huawei Atlas 800T A2 (fp16 rate, as resellers list it; "
             "Huawei publishes no data sheet)", matrix_share=0.65, attention_share=0.4),
        8, Link(6e-6, 150e9), _IB200,
    ),
    "gaudi3": Profile(
        _gpu("gaudi3", 119.0, 3.7, 1835.0, 28.7, "Intel Gaudi 3 white paper", fp8=1835.0, matrix_share=0.5,
             attention_share=0.3),
        8, Link(6e-6, 230e9), Link(8e-6, 67e9),
    ),
}  # fmt: skip

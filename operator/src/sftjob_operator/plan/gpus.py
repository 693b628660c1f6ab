"""Memory of one GPU, as far as the spec determines it."""

import re
from collections.abc import Iterable
from typing import Final

from sftjob_operator.plan.quantities import GIB, quantity

_MIG: Final = re.compile(r"\d+g\.(\d+)gb", re.IGNORECASE)
"""A MIG slice, as in the resource nvidia.com/mig-1g.10gb and in the label NVIDIA-A100-SXM4-40GB-MIG-1g.5gb."""
_IN_LABEL: Final = re.compile(r"(?<!\d)(\d{1,3})GB(?![A-Za-z0-9])", re.IGNORECASE)

_PRODUCTS: Final = (
    ("GH200-480GB", 96),  # its 480 GB are the CPU's memory
    ("GH200-144G", 144),
    ("GB300", 288),
    ("GB200", 192),
    ("B300", 288),
    ("B200", 192),
    ("H200", 141),
    ("H100-NVL", 94),
    ("H100-PCIe", 80),
    ("H20", 96),
    ("L40S", 48),
    ("L40", 48),
    ("L20", 48),
    ("L4", 24),
    ("A40", 48),
    ("A30", 24),
    ("A16", 16),
    ("A10G", 24),
    ("A10", 24),
    ("A2", 16),
    ("Tesla-T4", 16),
    ("RTX-PRO-6000", 96),
    ("RTX-6000-Ada", 48),
    ("RTX-A6000", 48),
    ("RTX-A5000", 24),
    ("RTX-A4000", 16),
    ("RTX-5090", 32),
    ("RTX-4090", 24),
    ("RTX-4080", 16),
    ("RTX-3090", 24),
    ("MI325X", 256),
    ("MI355X", 288),
    ("MI350X", 288),
    ("MI300X", 192),
    ("MI300A", 128),
    ("MI250X", 64),  # a device is one of its two dies
    ("MI250", 64),
    ("MI210", 64),
    ("MI100", 32),
)
"""GB by a whole word in the label of a product, from the vendors' data sheets. A program sees a few per cent less.
Every one can run PyTorch's build for CUDA 13, or its build for ROCm."""
_TOO_OLD: Final = re.compile(
    r"-(?:(?:tesla|nvidia)-(?:[kmp]\d+m?|v100s?)|quadro-(?:[kmp]\d+|g[pv]100)|titan-(?:v|xp?)|gtx-(?:10|[6-9])\d\d)-"
)
"""NVIDIA's products with a compute capability below 7.5, as words of a label: Volta, Pascal and older."""


def known_gpu_memory_bytes(gpu_memory: str | None, resource_name: str, products: Iterable[str]) -> int | None:
    """Return the memory of one GPU: as configured, by the MIG resource, or the smallest of `products`.

    None if nothing determines it, or if the run may be scheduled onto an unknown product. `gpu_memory` is a Kubernetes
    quantity. Vendors' GB of GPU memory are 2**30 bytes: an 80 GB card has 81,920 MiB.
    """
    if gpu_memory is not None:
        return quantity(gpu_memory)
    if (slice_ := _MIG.search(resource_name)) is not None:
        return int(slice_[1]) * GIB
    sizes = [product_gib(product) for product in products]
    known = [size for size in sizes if size is not None]
    return min(known) * GIB if known and len(known) == len(sizes) else None


def product_gib(label: str) -> int | None:
    """Return the GiB of a product by its feature discovery label: NVIDIA-A100-SXM4-80GB, AMD_Instinct_MI300X_OAM.

    None if it is unknown, and for products that the trainer's PyTorch has no code for.
    """
    if (slice_ := _MIG.search(label)) is not None:
        return int(slice_[1])
    words = f"-{label.replace('_', '-')}-".lower()
    if _TOO_OLD.search(words):
        return None
    for product, size in _PRODUCTS:
        if f"-{product.lower()}-" in words:
            return size
    found = _IN_LABEL.search(label)
    return int(found[1]) if found else None

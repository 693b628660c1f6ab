"""How much memory a GPU has, by what a spec tells of it."""

import pytest

from sftjob_operator.plan.gpus import known_gpu_memory_bytes, product_gib
from sftjob_operator.plan.quantities import quantity

GIB = 1 << 30
GPU = "nvidia.com/gpu"

PRODUCTS = {
    "NVIDIA-A100-SXM4-80GB": 80,
    "NVIDIA-A100-PCIE-40GB": 40,
    "NVIDIA-A100-SXM4-40GB-SHARED": 40,
    "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb": 5,
    "NVIDIA-H100-80GB-HBM3": 80,
    "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb": 10,
    "NVIDIA-H100-PCIe": 80,
    "NVIDIA-H100-NVL": 94,
    "NVIDIA-H200": 141,
    "NVIDIA-H200-NVL": 141,
    "NVIDIA-B200": 192,
    "NVIDIA-GH200-480GB": 96,
    "NVIDIA-GH200-144G-HBM3e": 144,
    "Tesla-T4": 16,
    "Tesla-V100-SXM2-16GB": None,
    "Tesla-V100S-PCIE-32GB": None,
    "Tesla-P100-PCIE-16GB": None,
    "Tesla-P40": None,
    "Tesla-K80": None,
    "Tesla-M60": None,
    "Quadro-GV100-32GB": None,
    "Quadro-P5000-16GB": None,
    "NVIDIA-TITAN-V-12GB": None,
    "NVIDIA-GeForce-GTX-1080-Ti-11GB": None,
    "NVIDIA-GeForce-GTX-1660-6GB": 6,
    "NVIDIA-H20": 96,
    "NVIDIA-GB200": 192,
    "NVIDIA-GB300": 288,
    "NVIDIA-B300-SXM6-AC": 288,
    "NVIDIA-L4": 24,
    "NVIDIA-L40": 48,
    "NVIDIA-L40S": 48,
    "NVIDIA-A10": 24,
    "NVIDIA-A10G": 24,
    "NVIDIA-A40": 48,
    "NVIDIA-GeForce-RTX-4090": 24,
    "NVIDIA-GeForce-RTX-5090": 32,
    "NVIDIA-RTX-6000-Ada-Generation": 48,
    "NVIDIA-RTX-A6000": 48,
    "AMD_Instinct_MI250X": 64,
    "AMD-Instinct-MI300X-OAM": 192,
    "NVIDIA-Something-New-64GB": 64,
    "NVIDIA-Something-New": None,
    "NVIDIA-A1000": None,
    "gpu": None,
}
"""GiB by label."""


@pytest.mark.parametrize("label", PRODUCTS)
def test_products_have_the_memory_of_their_data_sheets(label: str) -> None:
    assert product_gib(label) == PRODUCTS[label]


@pytest.mark.parametrize(
    ("gpu_memory", "resource", "products", "expected"),
    [
        (None, GPU, (), None),
        ("80Gi", GPU, (), 80 * GIB),
        ("80Gi", "nvidia.com/mig-1g.10gb", ("Tesla-T4",), 80 * GIB),
        (None, GPU, ("Tesla-T4",), 16 * GIB),
        (None, GPU, ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-PCIE-40GB"), 40 * GIB),
        (None, GPU, ("NVIDIA-A100-SXM4-80GB", "NVIDIA-Something-New"), None),
        (None, "nvidia.com/mig-1g.10gb", (), 10 * GIB),
        (None, "nvidia.com/mig-3g.20gb", ("NVIDIA-A100-SXM4-40GB",), 20 * GIB),
        (None, "amd.com/gpu", ("AMD_Instinct_MI300X",), 192 * GIB),
    ],
)
def test_what_is_given_counts_first_then_the_slice_then_the_smallest_product(
    gpu_memory: str | None, resource: str, products: tuple[str, ...], expected: int | None
) -> None:
    assert known_gpu_memory_bytes(gpu_memory, resource, products) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), ("80Gi", 80 * GIB), ("1.5Gi", 3 * GIB // 2), ("80G", 80 * 10**9), ("2k", 2000), ("1500m", 1)],
)
def test_quantities_are_read_as_kubernetes_does(text: str, expected: int) -> None:
    assert quantity(text) == expected


@pytest.mark.parametrize("text", ["", "80GB", "-1", "1e9", "Gi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a Kubernetes quantity"):
        quantity(text)

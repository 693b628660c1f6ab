"""Model FLOPs utilization: the formula by hand, and which devices are known."""

from dataclasses import replace
from typing import Any

import pytest

from sftjob_contract.reports.model_shape import LinearShape, ModelShape
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import Precision, RunConfig
from sftjob_trainer.reporting.mfu import compute_cost, flops_per_token, peak_flops
from support.trainer.tiny import lora, run_config
from support.trainer.training import stats_of

SHAPE = ModelShape(
    parameters=1000 + 200,
    bias_parameters=0,
    weight_bytes=0,
    hidden_size=10,
    intermediate_size=40,
    layers=3,
    attention_heads=2,
    key_value_heads=1,
    head_size=5,
    vocabulary_size=20,
    tied_embeddings=False,
    linear_layers=(LinearShape(name="q", in_features=10, out_features=10, count=3),),
)


@pytest.mark.parametrize(
    ("shape", "trainable", "full", "length", "expected"),
    [
        (SHAPE, 1200, True, 0.0, 6 * 1000),  # the embedding, 20 x 10, is looked up
        (replace(SHAPE, tied_embeddings=True), 1200, True, 0.0, 6 * 1200),  # it is the output head as well
        (SHAPE, 50, False, 0.0, 4 * 1000 + 6 * 50),
        (SHAPE, 1200, True, 100.0, 6 * 1000 + 12 * 3 * 2 * 5 * 100),
    ],
    ids=["full", "tied", "lora", "with-attention"],
)
def test_a_token_costs_what_the_formula_says(
    shape: ModelShape, trainable: int, full: bool, length: float, expected: float
) -> None:
    assert flops_per_token(shape, trainable=trainable, full=full, length=length) == expected


def test_it_is_about_what_palm_says_for_a_model_of_seven_billion() -> None:
    """Llama 2 7B at 4096 tokens: 6 N + 12 L H Q T with N = 6.74e9 - 131e6, 32 layers, 32 heads of 128."""
    llama = replace(
        SHAPE,
        parameters=6_738_415_616,
        hidden_size=4096,
        layers=32,
        attention_heads=32,
        head_size=128,
        vocabulary_size=32000,
    )
    found = flops_per_token(llama, trainable=llama.parameters, full=True, length=4096)

    assert found == pytest.approx(6 * 6.607e9 + 6.44e9, rel=1e-3)


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GB300", 2500),
        ("NVIDIA H20", 148),
        ("NVIDIA H20-3e", 148),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("AMD Instinct MI350X", 2307),
        ("AMD Instinct MI355X", 2516),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA GeForce RTX 4090", 165),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name(device: str, tera: float) -> None:
    assert peak_flops(device) == tera * 1e12


@pytest.mark.parametrize(
    "device",
    [None, "Quadro P4000", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A1000"],
)
def test_of_another_device_and_of_a_slice_nothing_is_claimed(device: str | None) -> None:
    assert peak_flops(device) is None


def on_gpus(gpus: int, nodes: int = 1, **options: Any) -> RunConfig:
    return replace(run_config(model="m", dataset="d", **options), gpus=gpus, nodes=nodes)


def prepared(**numbers: int) -> PreparedStats:
    return replace(stats_of(tokens=5000, train_rows=50, **numbers), model_shape=SHAPE)


def test_all_devices_count_and_documents_are_of_mean_length() -> None:
    found = compute_cost(
        on_gpus(4, nodes=2, method=lora()), prepared(), precision=Precision.BF16, device="NVIDIA H100", trainable=50
    )

    assert found is not None
    assert found.peak_flops == 8 * 989e12
    assert found.flops_per_token == flops_per_token(SHAPE, trainable=50, full=False, length=100)
    assert found.utilization(10**12, 1.0) == pytest.approx(10**12 * found.flops_per_token / found.peak_flops)
    assert found.utilization(1, 0.0) is None


@pytest.mark.parametrize(
    ("stats", "precision", "device"),
    [
        (replace(prepared(), model_shape=None), Precision.BF16, "NVIDIA H100"),
        (prepared(), Precision.FP32, "NVIDIA H100"),
        (prepared(), Precision.BF16, "Quadro P4000"),
        (prepared(), Precision.BF16, None),
    ],
    ids=["shape", "precision", "device", "cpu"],
)
def test_where_something_is_not_known_there_is_no_number(
    stats: PreparedStats, precision: Precision, device: str | None
) -> None:
    assert compute_cost(on_gpus(1), stats, precision=precision, device=device, trainable=1) is None

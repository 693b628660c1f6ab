"""Training on weights that are stored quantized: QLoRA on bitsandbytes', anything on those that are dequantized."""

from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.run.config import Precision
from sftjob_contract.run.method import ComputeDtype, Distillation, Method, Quantization, QuantizationType, Teacher
from support.trainer.quantized import write_bitsandbytes, write_experts, write_fp8, write_mxfp4
from support.trainer.tiny import lora
from support.trainer.training import PEFT_IS_BEHIND, build_trainer, finish, job

pytestmark = PEFT_IS_BEHIND
FULL = Method(lora=None, quantization=None, distillation=None)
QLORA = lora(
    quantization=Quantization(
        bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.FLOAT32
    )
)


@pytest.fixture(scope="module")
def fp8(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fp8(tmp_path_factory.mktemp("fp8"), llama)


@pytest.fixture(scope="module")
def fp8_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fp8(tmp_path_factory.mktemp("fp8-experts"), write_experts(tmp_path_factory.mktemp("experts")))


@pytest.fixture(scope="module")
def mxfp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mxfp4(tmp_path_factory.mktemp("mxfp4"))


@pytest.fixture(scope="module")
def nf4(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bitsandbytes(tmp_path_factory.mktemp("nf4"), llama)


def test_qlora_learns_on_weights_of_bitsandbytes_in_the_compute_dtype_of_the_spec(nf4: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path / "built", job(nf4, method=QLORA, max_steps=4))
    layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert type(layer).__name__ == "Linear4bit"
    assert str(layer.compute_dtype) == "torch.float32"
    output = finish(tmp_path / "run", job(nf4, method=QLORA, max_steps=4, learning_rate=3e-2)).outcome.output
    assert output is not None
    assert output.metrics["evalLoss"] < output.metrics["initialEvalLoss"]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_weights_of_fp8_are_dequantized_to_the_dtype_of_the_run(
    fp8: Path, llama: Path, tmp_path: Path, precision: Precision
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    trainer = build_trainer(tmp_path, job(fp8, method=FULL, precision=precision, max_steps=4))
    original = AutoModelForCausalLM.from_pretrained(llama)
    assert {weights.dtype for weights in trainer.model.parameters()} == {torch.float32}
    for name, weights in original.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], weights, rtol=0.07, atol=1e-3)


@pytest.mark.parametrize("stored", ["fp8", "fp8_experts", "mxfp4"])
def test_every_weight_of_a_dequantized_base_is_trained_and_saved_unquantized(
    tmp_path: Path, stored: str, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoModelForCausalLM

    source = request.getfixturevalue(stored)
    outcome = finish(tmp_path, job(source, method=FULL, max_steps=4, learning_rate=3e-3)).outcome
    assert outcome.output is not None
    assert outcome.output.metrics["evalLoss"] < outcome.output.metrics["initialEvalLoss"]
    saved, loading = AutoModelForCausalLM.from_pretrained(tmp_path / layout.OUTPUT_MODEL, output_loading_info=True)
    assert {name: found for name, found in loading.items() if found} == {}
    assert getattr(saved.config, "quantization_config", None) is None


def test_an_adapter_of_a_base_in_mxfp4_learns_and_merges(mxfp4: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = job(mxfp4, method=lora(), max_steps=4, learning_rate=3e-2)
    config = replace(config, output=replace(config.output, merge_adapter=True))
    outcome = finish(tmp_path / "volume", config).outcome
    assert outcome.message is None
    assert outcome.output is not None
    assert outcome.output.metrics["evalLoss"] < outcome.output.metrics["initialEvalLoss"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "volume" / layout.OUTPUT_MERGED)
    assert getattr(merged.config, "quantization_config", None) is None


@pytest.mark.parametrize("stored", ["nf4", "fp8"])
def test_a_quantized_teacher_teaches(
    llama: Path, tmp_path: Path, stored: str, request: pytest.FixtureRequest, cpu_with_avx512_bf16: None
) -> None:
    from sftjob_trainer.models.hardware import choose, this_machine
    from sftjob_trainer.models.load import load_teacher

    source = request.getfixturevalue(stored)
    wanted = Distillation(teacher=Teacher(source=str(source), revision=None), temperature=2.0, alpha=0.5)
    config = job(llama, method=Method(lora=None, quantization=None, distillation=wanted), max_steps=2)
    teacher = load_teacher(source, config, choose(config, this_machine()))
    logits = teacher(input_ids=teacher.dummy_inputs["input_ids"]).logits
    assert bool(logits.isfinite().all())
    assert not any(weights.requires_grad for weights in teacher.parameters())

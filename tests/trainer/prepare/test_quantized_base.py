"""Bases whose weights are quantized already: what can be trained on them, known before a GPU is held."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.method import ComputeDtype, Distillation, Method, Quantization, QuantizationType, Teacher
from sftjob_trainer.models.quantized_base import base_quantization, check_base
from sftjob_trainer.process.errors import StageError
from support.trainer.preparing import Workbench
from support.trainer.tiny import lora, run_config

BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}
BNB8 = {"load_in_8bit": True}
FULL = Method(lora=None, quantization=None, distillation=None)
INSTEAD = "; or name the repository with the model's 16-bit weights in model.source"
ONLY = (
    "only bases of bitsandbytes (with method.lora and method.quantization) and of fp8 and mxfp4 (which are "
    "dequantized) can be trained, so write another model.source"
)


def qlora(bits: int) -> Method:
    return lora(
        quantization=Quantization(
            bits=bits, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16
        )
    )


@pytest.mark.parametrize(
    ("stored", "method", "merges", "said"),
    [
        (BNB4, qlora(4), False, None),
        (BNB8, qlora(8), False, None),
        (
            BNB4,
            FULL,
            False,
            (
                "bitsandbytes, 4 bits): write method.lora with method.quantization.bits: 4, since such weights cannot "
                "be trained"
            ),
        ),
        (BNB4, lora(), False, "bitsandbytes, 4 bits): write method.quantization.bits: 4"),
        (BNB8, qlora(4), False, "bitsandbytes, 8 bits): write method.quantization.bits: 8"),
        (
            BNB4,
            lora(),
            True,
            (
                "bitsandbytes, 4 bits): write method.quantization.bits: 4, and remove output.mergeAdapter, since an "
                "adapter is not merged into such weights"
            ),
        ),
        ({"quant_method": "fp8"}, FULL, False, None),
        ({"quant_method": "mxfp4"}, lora(), True, None),
        (
            {"quant_method": "mxfp4"},
            qlora(4),
            False,
            "mxfp4): remove method.quantization, which cannot quantize such weights again",
        ),
        *(
            ({"quant_method": method}, lora(), False, f"{method}): {ONLY}")
            for method in ("gptq", "awq", "compressed-tensors", "torchao", "hqq", "modelopt")
        ),
        ({"bits": 4}, lora(), False, f"an unnamed method): {ONLY}"),
    ],
)
def test_what_can_be_trained_on_a_quantized_base_is_one_sentence(
    stored: dict[str, Any], method: Method, merges: bool, said: str | None, tmp_path: Path
) -> None:
    config = run_config(model="hf://org/model", dataset="d", method=method)
    config = replace(config, output=replace(config.output, merge_adapter=merges))
    base = base_quantization({"quantization_config": stored}, tmp_path)
    if said is None:
        check_base(config, base)
        return
    with pytest.raises(StageError) as raised:
        check_base(config, base)
    assert raised.value.reason is Reason.CONFIG_INVALID
    assert raised.value.message == f"model.source: hf://org/model is quantized already ({said}{INSTEAD}"


@pytest.mark.parametrize(
    ("settings", "file", "method"),
    [
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, None, "fp8"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, None, "compressed-tensors"),
        ({}, "quantize_config.json", "gptq"),
        ({}, "quant_config.json", "awq"),
        ({}, "hf_quant_config.json", "modelopt"),
        ({"quantization_config": None}, None, None),
        ({}, None, None),
    ],
)
def test_quantized_weights_are_known_wherever_a_repository_says_so(
    settings: dict[str, Any], file: str | None, method: str | None, tmp_path: Path
) -> None:
    if file is not None:
        (tmp_path / file).write_text("{}")
    found = base_quantization(settings, tmp_path)
    assert (None if found is None else found.method) == method


def quantized_copy(model: Path, directory: Path, method: str) -> Path:
    shutil.copytree(model, directory)
    settings = json.loads((model / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**settings, "quantization_config": {"quant_method": method}}))
    return directory


def test_prepare_refuses_a_base_that_cannot_be_trained_before_it_reads_data(
    bench: Workbench, model_without_weights: Path
) -> None:
    model = quantized_copy(model_without_weights, bench.root / "gptq", "gptq")
    config = replace(bench.config("not-there.jsonl"), method=lora())
    with pytest.raises(StageError, match=r"model\.source: .*quantized already \(gptq\)"):
        bench.run(replace(config, model=replace(config.model, source=str(model))))


def test_prepare_refuses_loftq_for_a_model_without_safetensors(bench: Workbench, model_without_weights: Path) -> None:
    model = shutil.copytree(model_without_weights, bench.root / "pickled")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    method = replace(qlora(4), lora=lora(extra={"init_lora_weights": "loftq"}).lora)
    config = bench.config("not-there.jsonl", method=method)
    with pytest.raises(
        StageError, match=r"loftq reads the weights from safetensors, which .*pickled does not have; remo"
    ):
        bench.run(replace(config, model=replace(config.model, source=str(model))))


def test_prepare_refuses_a_teacher_that_cannot_be_loaded(bench: Workbench, model_without_weights: Path) -> None:
    teacher = quantized_copy(model_without_weights, bench.root / "awq", "awq")
    wanted = Distillation(teacher=Teacher(source=str(teacher), revision=None), temperature=2.0, alpha=0.5)
    config = bench.config("not-there.jsonl", method=Method(lora=None, quantization=None, distillation=wanted))
    with pytest.raises(StageError, match=r"method\.distillation\.teacher\.source: .*quantized with awq"):
        bench.run(config)


def test_prepare_says_that_weights_are_dequantized(
    bench: Workbench, model_without_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = quantized_copy(model_without_weights, bench.root / "fp8", "fp8")
    config = bench.config(bench.write("d.jsonl", [{"text": f"open {number}"} for number in range(4)]))
    bench.run(replace(config, model=replace(config.model, source=str(model))))
    assert "the model's weights are quantized (fp8) and are dequantized when they are loaded" in caplog.text

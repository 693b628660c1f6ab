"""Weights that are trained: all of them are fp32 under LoRA, whatever the base is in, and they move."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import ModelDtype, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, LoraBias, Method, Quantization, QuantizationType
from support.trainer.tiny import lora
from support.trainer.training import (
    PEFT_IS_BEHIND,
    as_died_after,
    build_trainer,
    finish,
    job,
    run_train,
    write_prepared,
)

pytestmark = PEFT_IS_BEHIND

NF4 = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16)
EVERY_KIND = lora(bias=LoraBias.ALL, modules_to_save=("norm", "embed_tokens"), target_modules=("q_proj", "up_proj"))
METHODS = [
    pytest.param(EVERY_KIND, id="modules and biases"),
    pytest.param(replace(EVERY_KIND, quantization=NF4), id="quantized"),
    pytest.param(lora(dora=True, extra={"trainable_token_indices": [3, 4]}, target_modules=("q_proj",)), id="tokens"),
]


def in_16_bits(model: Path, method: Method, *, autocast: bool, **options: Any) -> RunConfig:
    config = job(model, method=method, precision=Precision.BF16 if autocast else Precision.AUTO, **options)
    return replace(config, model=replace(config.model, dtype=ModelDtype.BFLOAT16))


def dtypes(model: Any, *, trained: bool) -> set[str]:
    return {str(weights.dtype) for weights in model.parameters() if weights.requires_grad is trained}


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_everything_that_lora_trains_is_fp32_and_learns(
    llama: Path, tmp_path: Path, method: Method, autocast: bool
) -> None:
    config = in_16_bits(llama, method, autocast=autocast, max_steps=4, learning_rate=1e-2)

    model = build_trainer(tmp_path / "built", config).model
    outcome = finish(tmp_path / "run", config).outcome

    assert dtypes(model, trained=True) == {"torch.float32"}
    assert dtypes(model, trained=False) <= {"torch.bfloat16", "torch.uint8"}
    assert outcome.output is not None, outcome.message
    assert outcome.output.metrics["evalLoss"] < outcome.output.metrics["initialEvalLoss"]


def test_updates_too_small_for_16_bits_are_not_lost(qwen2: Path, tmp_path: Path) -> None:
    """A norm's weight is 1, after which the next number in bf16 is 1.0078; one step of Adam adds 1e-4."""
    import torch
    from safetensors.torch import load_file

    method = lora(modules_to_save=("norm",), target_modules=("q_proj",))
    config = in_16_bits(qwen2, method, autocast=True, max_steps=1, learning_rate=1e-4, warmup_ratio=None)
    finish(tmp_path, config)

    saved = load_file(tmp_path / layout.OUTPUT_ADAPTER / "adapter_model.safetensors")
    moved = torch.cat([weights.float() - 1 for name, weights in saved.items() if "norm" in name]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-4), rtol=0.01, atol=0)


@pytest.mark.parametrize("quantization", [None, NF4])
def test_a_resumed_run_goes_on_in_fp32_to_the_same_weights(
    llama: Path, tmp_path: Path, quantization: Quantization | None
) -> None:
    from safetensors.torch import load_file

    method = replace(EVERY_KIND, quantization=quantization)
    config = in_16_bits(llama, method, autocast=True, max_steps=4, save_every=2, learning_rate=1e-2)
    whole = finish(tmp_path / "whole", config)

    volume = as_died_after(2, whole, tmp_path / "resumed")
    assert run_train(volume, config, attempt=2).exit_code is ExitCode.DONE

    one, two = (
        load_file(path / layout.OUTPUT_ADAPTER / "adapter_model.safetensors") for path in (whole.volume, volume)
    )
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)
    assert {str(weights.dtype) for weights in one.values()} == {"torch.float32"}


@pytest.mark.parametrize("method", [None, lora(), lora(quantization=NF4)], ids=["full", "lora", "qlora"])
def test_a_run_whose_weights_did_not_move_fails_with_a_sentence_and_has_no_last_checkpoint(
    llama: Path, tmp_path: Path, method: Method | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt resumes after the first step. The spec takes no rate of 0, so it is put in behind it."""
    from sftjob_trainer.run.sft_config import sft_arguments

    monkeypatch.setattr(
        "sftjob_trainer.training.construction.sft_arguments",
        lambda *given, **more: {**sft_arguments(*given, **more), "learning_rate": 0.0},
    )
    config = job(llama, method=method, max_steps=2, save_every=1)
    write_prepared(tmp_path, config)

    outcomes = [run_train(tmp_path, config, attempt=attempt) for attempt in (1, 2)]

    for outcome in outcomes:
        assert (outcome.exit_code, outcome.reason) == (ExitCode.INVALID, Reason.CONFIG_INVALID)
        assert (outcome.message or "").startswith("nothing was trained: after 2 steps every weight is what it was")
        assert "training.learningRate (0.001)" in (outcome.message or "")
    assert outcomes[1].progress is not None
    assert outcomes[1].progress.resumed_from_step == 1
    assert [path.name for path in (tmp_path / layout.CHECKPOINTS).glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (tmp_path / layout.OUTPUT).exists()


def test_a_fingerprint_sees_one_bit_and_nothing_that_is_frozen() -> None:
    import torch

    from sftjob_trainer.training.trained_weights import fingerprint

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2).bfloat16())
    model[0].weight.requires_grad_(requires_grad=False)
    before = fingerprint(model)
    model[0].weight.data += 1
    assert fingerprint(model) == before
    model[1].bias.data.view(torch.int16)[0] ^= 1
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    ("precision", "asked", "expected"),
    [
        (Precision.FP16, ComputeDtype.BFLOAT16, "float16"),
        (Precision.FP16, ComputeDtype.FLOAT32, "float32"),
        (Precision.BF16, ComputeDtype.BFLOAT16, "bfloat16"),
    ],
)
def test_4_bit_weights_are_multiplied_in_the_16_bits_of_the_step(
    precision: Precision, asked: ComputeDtype, expected: str
) -> None:
    from sftjob_trainer.models.load import quantization_config

    made = quantization_config(replace(NF4, compute_dtype=asked), precision)

    assert str(made.bnb_4bit_compute_dtype) == f"torch.{expected}"


def test_an_fp16_run_on_quantized_weights_has_fp32_adapters_and_fp16_autocast(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a T4 gets, as far as a CPU can show: the model, its trained weights and TRL's arguments."""
    from sftjob_trainer.models.hardware import Choices
    from sftjob_trainer.training import build

    as_on_a_t4 = Choices(precision=Precision.FP16, dtype=ModelDtype.FLOAT16, attention=None, liger=False, reasons=())
    monkeypatch.setattr(build, "choose", lambda *_: as_on_a_t4)

    trainer = build_trainer(tmp_path, job(llama, method=lora(quantization=NF4), max_steps=2))

    assert dtypes(trainer.model, trained=True) == {"torch.float32"}
    assert dtypes(trainer.model, trained=False) <= {"torch.float16", "torch.uint8"}
    assert (trainer.args.fp16, trainer.args.bf16) == (True, False)
    assert trainer.model.get_decoder().layers[0].mlp.up_proj.base_layer.compute_dtype.itemsize == 2

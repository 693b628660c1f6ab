"""LoRA and QLoRA: what they train, what they leave behind, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, Method, Quantization, QuantizationType
from sftjob_contract.run.optimization import Optimizer
from sftjob_trainer.output.model_card import base_model_name
from support.trainer.tiny import lora, run_config
from support.trainer.training import (
    PEFT_IS_BEHIND,
    Finished,
    build_trainer,
    finish,
    job,
    read_metrics,
    run_train,
    token_mean_loss,
    write_prepared,
)

pytestmark = PEFT_IS_BEHIND


def quantized(
    bits: int = 4,
    kind: QuantizationType = QuantizationType.NF4,
    *,
    double: bool = True,
    compute: ComputeDtype = ComputeDtype.BFLOAT16,
) -> Method:
    return lora(quantization=Quantization(bits=bits, type=kind, double_quantization=double, compute_dtype=compute))


@pytest.fixture(scope="module")
def tuned(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished LoRA run."""
    return finish(tmp_path_factory.mktemp("tuned"), job(qwen2, method=lora(), max_steps=6, learning_rate=3e-2))


def test_an_adapter_loads_with_peft_onto_its_base_and_scores_what_was_told(qwen2: Path, tuned: Finished) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(qwen2)
    model = PeftModel.from_pretrained(base, tuned.volume / layout.OUTPUT_ADAPTER).eval()

    assert tuned.outcome.output is not None
    metrics = tuned.outcome.output.metrics
    assert metrics["evalLoss"] < metrics["initialEvalLoss"] - 0.01
    assert token_mean_loss(model, tuned) == pytest.approx(metrics["evalLoss"], abs=1e-5)
    with model.disable_adapter():
        assert token_mean_loss(model, tuned) == pytest.approx(metrics["initialEvalLoss"], abs=1e-5)


def test_the_adapter_names_the_model_as_the_user_did_and_no_path_of_the_container(tuned: Finished) -> None:
    directory = tuned.volume / layout.OUTPUT_ADAPTER
    settings = json.loads((directory / "adapter_config.json").read_text())

    assert settings["base_model_name_or_path"] == tuned.config.model.source
    assert {path.name for path in directory.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"),
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://org/model", "org/model"),
        ("pvc://claim/output/model", "pvc://claim/output/model"),
        ("/models/x", "/models/x"),
    ],
)
def test_a_base_from_the_hub_is_named_by_its_id_there(source: str, name: str) -> None:
    assert base_model_name(run_config(model=source, dataset="d").model) == name


def test_only_the_adapter_is_in_a_checkpoint(tuned: Finished) -> None:
    names = {path.name for path in (tuned.volume / layout.CHECKPOINTS / "checkpoint-6").iterdir()}

    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(quantized(), id="nf4, double"),
        pytest.param(quantized(kind=QuantizationType.FP4, double=False, compute=ComputeDtype.FLOAT32), id="fp4"),
        pytest.param(quantized(8), id="8 bits"),
    ],
)
def test_qlora_learns_on_the_cpu(qwen2: Path, tmp_path: Path, method: Method) -> None:
    outcome = finish(tmp_path, job(qwen2, method=method, max_steps=4, learning_rate=3e-2)).outcome

    assert outcome.output is not None
    assert outcome.output.path == layout.OUTPUT_ADAPTER
    assert outcome.output.metrics["evalLoss"] < outcome.output.metrics["initialEvalLoss"]


def test_an_evaluation_in_between_leaves_gradients_of_a_quantized_model_alone(
    qwen2: Path, tmp_path: Path, cpu_with_avx512_bf16: None
) -> None:
    import torch

    trainer = build_trainer(tmp_path, job(qwen2, method=quantized(), max_steps=4))
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():  # B is zero at first, and so would be every gradient of A
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)

    def gradients() -> dict[str, Any]:
        trainer.model.train()
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, dict(batch)).backward()
        return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}

    before = gradients()
    trainer.evaluate()
    after = gradients()

    assert len(before) == 28
    assert all(float(gradient.abs().max()) > 0 for gradient in before.values())
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, rtol=0, atol=0)


def test_bitsandbytes_still_decides_about_repacking_by_the_attribute_that_is_turned_off(
    qwen2: Path, tmp_path: Path, cpu_with_avx512_bf16: None
) -> None:
    import bitsandbytes

    assert bitsandbytes.nn.Linear4bit(2, 2).support_avx512bf16_for_cpu

    model = build_trainer(tmp_path, job(qwen2, method=quantized(), max_steps=4)).model
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]

    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_bf16_and_8_bit_optimizer_states_train_on_the_cpu(qwen2: Path, tmp_path: Path) -> None:
    config = job(qwen2, precision=Precision.BF16, optimizer=Optimizer.ADAMW_8BIT, max_steps=4, learning_rate=1e-2)

    outcome = finish(tmp_path, config).outcome

    assert outcome.output is not None
    assert outcome.output.metrics["evalLoss"] < outcome.output.metrics["initialEvalLoss"]


def test_gradient_checkpointing_computes_the_same(qwen2: Path, tmp_path: Path) -> None:
    losses = []
    for enabled in (False, True):
        config = job(qwen2, gradient_checkpointing=enabled, max_steps=3, learning_rate=1e-2)
        losses.append(read_metrics(finish(tmp_path / str(enabled), config).volume).values("loss"))

    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_auto_precision_is_fp32_without_a_gpu(qwen2: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, precision=Precision.AUTO, max_steps=4))

    assert not trainer.args.bf16
    assert {str(parameter.dtype) for parameter in trainer.model.parameters()} == {"torch.float32"}


def with_targets(config: RunConfig, *modules: str) -> RunConfig:
    method = lora(rank=2, target_modules=modules)
    return replace(config, method=method)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: with_targets(config, "no_such_layer"), "no_such_layer"),
        (lambda config: with_targets(config, "lm_head"), "lm_head"),
    ],
)
def test_what_a_model_cannot_do_is_refused_in_a_sentence(llama: Path, tmp_path: Path, change: Any, said: str) -> None:
    config = change(job(llama, max_steps=4))
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.INVALID, Reason.CONFIG_INVALID)
    assert outcome.message is not None
    assert said in outcome.message


def test_a_model_that_is_not_a_language_model_is_refused(qwen2: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "vit"}')
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (broken / name).write_bytes((qwen2 / name).read_bytes())
    config = job(broken, max_steps=4)
    write_prepared(tmp_path / "volume", config)

    outcome = run_train(tmp_path / "volume", config)

    assert outcome.exit_code is ExitCode.INVALID
    assert outcome.message is not None
    assert "cannot be loaded as a causal language model" in outcome.message

"""Adapters that begin with a part of the base: at first the model is the same, the output fits the base as it is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_trainer.preflight.meta_model import find_refusal
from sftjob_trainer.preflight.run_config import problems
from support.trainer.tiny import lora, run_config
from support.trainer.training import (
    PEFT_IS_BEHIND,
    Finished,
    as_died_after,
    build_trainer,
    finish,
    job,
    run_train,
    token_mean_loss,
    write_prepared,
)

pytestmark = PEFT_IS_BEHIND
KINDS = ["pissa", "pissa_niter_8", "olora"]
IDS = torch.tensor([[5, 9, 4, 11, 7, 6, 10]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found


def base(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = job(
        llama,
        method=lora(extra={"init_lora_weights": request.param}, modules_to_save=("lm_head",)),
        max_steps=4,
        save_every=2,
        learning_rate=1e-2,
    )
    merged = replace(config, output=replace(config.output, merge_adapter=True))
    return finish(tmp_path_factory.mktemp(request.param), merged)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_output_is_that_of_the_base_and_b_is_not_zero(llama: Path, tmp_path: Path, kind: str) -> None:
    config = job(llama, method=lora(extra={"init_lora_weights": kind}), max_steps=2)

    model = build_trainer(tmp_path, config).model

    assert torch.allclose(logits(model), logits(base(llama)), atol=1e-5)
    b = [weights.detach() for name, weights in model.named_parameters() if "lora_B" in name]
    assert b
    assert all(float(weights.abs().max()) > 1e-3 for weights in b)
    before, now = (
        one.get_parameter(f"{prefix}model.layers.0.mlp.up_proj.{layer}weight")
        for one, prefix, layer in ((base(llama), "", ""), (model, "base_model.model.", "base_layer."))
    )
    assert float((before - now).detach().abs().max()) > 1e-3


def test_the_published_adapter_on_the_published_base_is_the_trained_model(llama: Path, trained: Finished) -> None:
    from peft import PeftModel

    assert trained.outcome.output is not None, trained.outcome.message
    loaded = PeftModel.from_pretrained(base(llama), str(trained.volume / layout.OUTPUT_ADAPTER))

    metrics = trained.outcome.output.metrics
    assert token_mean_loss(loaded.eval(), trained) == pytest.approx(metrics["evalLoss"], abs=1e-4)
    assert metrics["evalLoss"] < metrics["initialEvalLoss"] - 0.05
    settings = json.loads((trained.volume / layout.OUTPUT_ADAPTER / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (8, 16, True)
    files = {path.name for path in (trained.volume / layout.OUTPUT_ADAPTER).iterdir()}
    assert "initial_adapter.safetensors" not in files
    assert metrics["mergedEvalLoss"] == pytest.approx(metrics["evalLoss"], abs=1e-4)


def test_a_run_resumes_as_if_undisturbed(trained: Finished, tmp_path: Path) -> None:
    volume = as_died_after(2, trained, tmp_path / "died")

    outcome = run_train(volume, trained.config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE
    one, other = (
        load_file(path / layout.OUTPUT_ADAPTER / "adapter_model.safetensors") for path in (trained.volume, volume)
    )
    assert all(torch.allclose(weights, other[name], atol=1e-5) for name, weights in one.items())


def test_another_run_does_not_start_from_a_checkpoint_whose_base_was_changed(
    llama: Path, trained: Finished, tmp_path: Path
) -> None:
    config = job(llama, method=lora(modules_to_save=("lm_head",)), max_steps=2)
    source = str(trained.volume / layout.CHECKPOINTS / "checkpoint-4")
    config = replace(config, checkpoints=replace(config.checkpoints, resume_from=source))
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert outcome.reason is Reason.CONFIG_INVALID
    assert "it was trained on a base that its initialization had changed" in str(outcome.message)


@pytest.mark.parametrize("changes", [{"dora": True}, {"rslora": True}])
def test_what_could_not_be_published_is_refused_at_once(changes: dict[str, Any]) -> None:
    method = lora(extra={"init_lora_weights": "pissa"}, **changes)

    found = list(problems(run_config(model="/m", dataset="/d", method=method)))

    assert len(found) == 1
    assert found[0].startswith(
        f"method.lora.extra.init_lora_weights: pissa cannot be combined with method.lora.{next(iter(changes))}"
    )


def test_it_can_be_made_without_weights(llama: Path) -> None:
    for kind in KINDS:
        config = job(llama, method=lora(extra={"init_lora_weights": kind}), max_steps=2)
        assert find_refusal(config, llama) is None

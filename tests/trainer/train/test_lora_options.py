"""The options of LoRA: what becomes trainable, how updates are scaled, and which layers may be named."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from safetensors.torch import load_file

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.method import LoraBias, Method
from sftjob_contract.run.optimization import Optimizer
from sftjob_trainer.process.errors import StageError
from support.trainer.preparing import Workbench
from support.trainer.tiny import lora
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

TIED_WEIGHTS_ARE_MEANT = pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")


def trainable(model: Any) -> set[str]:
    """Last parts of the names of what is trained, LoRA's own matrices apart."""
    names = {name.removesuffix(".default") for name, weights in model.named_parameters() if weights.requires_grad}
    return {".".join(name.split(".")[-2:]) for name in names if "lora_" not in name}


@pytest.mark.parametrize(
    ("bias", "expected"),
    [
        (LoraBias.NONE, set()),
        (LoraBias.LORA_ONLY, {"base_layer.bias"}),
        (LoraBias.ALL, {"base_layer.bias", "k_proj.bias", "v_proj.bias"}),
    ],
)
def test_biases_are_trained_as_asked(qwen2: Path, tmp_path: Path, bias: LoraBias, expected: set[str]) -> None:
    method = lora(bias=bias, target_modules=("q_proj",))

    assert trainable(build_trainer(tmp_path, job(qwen2, method=method, max_steps=2)).model) == expected


@pytest.mark.parametrize(
    ("rslora", "scale"),
    [(False, 16 / 4), (True, 16 / 4**0.5)],
)
def test_updates_are_scaled_by_alpha_over_the_rank_or_its_root(
    qwen2: Path, tmp_path: Path, rslora: bool, scale: float
) -> None:
    """y = W x + scale * B A x, with A and B taken out of the layer (Kalajdzievski 2023 for the root)."""
    import torch

    method = lora(rank=4, alpha=16, rslora=rslora, target_modules=("up_proj",))
    layer = build_trainer(tmp_path, job(qwen2, method=method, max_steps=2)).model.get_decoder().layers[0].mlp.up_proj
    inputs = torch.randn(3, 32)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = inputs @ (layer.base_layer.weight + scale * b @ a).T

        torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)


def test_dora_scales_the_direction_to_a_magnitude_of_its_own(qwen2: Path, tmp_path: Path) -> None:
    """y = m * (W + s B A) / ||W + s B A|| x, the norm of each row (Liu et al. 2024, equation 5)."""
    import torch

    method = lora(rank=4, alpha=8, dora=True, target_modules=("up_proj",))
    layer = build_trainer(tmp_path, job(qwen2, method=method, max_steps=2)).model.get_decoder().layers[0].mlp.up_proj
    inputs = torch.randn(3, 32)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        magnitude = layer.lora_magnitude_vector["default"].weight
        torch.testing.assert_close(magnitude, layer.base_layer.weight.norm(dim=1))
        magnitude.mul_(1.5)
        direction = layer.base_layer.weight + 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        expected = inputs @ (magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)).T

        torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(lora(rslora=True), id="rslora"),
        pytest.param(lora(dora=True), id="dora"),
        pytest.param(lora(bias=LoraBias.ALL), id="all biases"),
        pytest.param(lora(modules_to_save=("norm",), target_modules=("q_proj", "v_proj")), id="norms as a whole"),
    ],
)
def test_a_run_learns_and_its_adapter_scores_what_was_told(qwen2: Path, tmp_path: Path, method: Method) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = finish(tmp_path, job(qwen2, method=method, max_steps=4, learning_rate=1e-2))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(qwen2), tmp_path / layout.OUTPUT_ADAPTER)

    assert run.outcome.output is not None
    metrics = run.outcome.output.metrics
    assert metrics["evalLoss"] < metrics["initialEvalLoss"]
    assert token_mean_loss(model.eval(), run) == pytest.approx(metrics["evalLoss"], abs=1e-5)


def test_an_output_head_that_is_trained_as_a_whole_really_changes(llama: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    method = lora(modules_to_save=("lm_head",), target_modules=("q_proj",))
    finish(tmp_path, job(llama, method=method, max_steps=3, learning_rate=1e-2))

    saved = load_file(tmp_path / layout.OUTPUT_ADAPTER / "adapter_model.safetensors")
    before = load_file(llama / "model.safetensors")["lm_head.weight"]
    (head,) = [weights for name, weights in saved.items() if "lm_head" in name]
    assert not torch.equal(head, before)


NO_LAYERS: Final = [
    (
        lora(target_modules=("q_proj", "no_such_layer")),
        "method.lora.targetModules: no_such_layer is not a layer of the model; it has q_proj, k_proj, v_proj, o_proj",
    ),
    (
        lora(target_modules=("proj",)),
        "method.lora.targetModules: proj is not a layer of the model; it has q_proj, k_proj",
    ),
    (
        lora(target_modules=("lm_head",)),
        "method.lora.targetModules: lm_head is the model's output head, which cannot be adapted; name it in ",
    ),
    (
        lora(modules_to_save=("head",)),
        "method.lora.modulesToSave: head is not a layer of the model; it has embed_tokens, q_proj",
    ),
]


@pytest.mark.parametrize(("method", "sentence"), NO_LAYERS)
def test_prepare_refuses_a_name_that_is_no_layer_before_a_gpu_is_held(
    llama: Path, tmp_path: Path, method: Method, sentence: str
) -> None:
    bench = Workbench(tmp_path, llama)
    data = bench.write("train.jsonl", [{"text": "a line"}])

    with pytest.raises(StageError) as refused:
        bench.run(replace(bench.config(data), method=method))

    assert refused.value.reason is Reason.CONFIG_INVALID
    refusal, _, layers = sentence.partition("; it has ")
    assert refused.value.message.startswith(refusal)
    assert set(layers.split(", ")) <= {"", *refused.value.message.partition("; it has ")[2].split(", ")}


@pytest.mark.slow
def test_prepare_finds_the_names_of_single_layers_in_the_model_as_it_is_loaded(qwen2: Path, tmp_path: Path) -> None:
    """A checkpoint may name them without the prefix that the loaded model has."""
    bench = Workbench(tmp_path, qwen2)
    data = bench.write("train.jsonl", [{"text": "a line"}] * 2)
    config = bench.config(data)

    one, none = (lora(target_modules=(f"model.layers.{number}.mlp.up_proj", "q_proj")) for number in (1, 2))

    assert bench.run(replace(config, method=one)).sequences == 2
    with pytest.raises(StageError, match=r"targetModules: model\.layers\.2\.mlp\.up_proj is not a layer of the model"):
        bench.run(replace(config, method=none))


@pytest.mark.parametrize(("method", "sentence"), NO_LAYERS)
def test_a_name_that_is_no_layer_is_refused_with_the_names_that_are(
    llama: Path, tmp_path: Path, method: Method, sentence: str
) -> None:
    config = job(llama, method=method, max_steps=2)
    write_prepared(tmp_path, config)

    outcome = run_train(tmp_path, config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.INVALID, Reason.CONFIG_INVALID)
    assert outcome.message is not None
    assert outcome.message.startswith(sentence)


def test_a_layer_may_be_named_by_more_than_its_last_part(qwen2: Path, tmp_path: Path) -> None:
    method = lora(target_modules=("layers.0.self_attn.q_proj", "mlp.up_proj"))

    model = build_trainer(tmp_path, job(qwen2, method=method, max_steps=2)).model

    adapted = {name.partition(".lora_A")[0] for name, _ in model.named_modules() if name.endswith("lora_A")}
    prefix = "base_model.model.model.layers"
    assert adapted == {f"{prefix}.0.self_attn.q_proj", f"{prefix}.0.mlp.up_proj", f"{prefix}.1.mlp.up_proj"}


@pytest.mark.parametrize("optimizer", [Optimizer.ADAMW_TORCH, Optimizer.ADAMW_8BIT, Optimizer.SGD])
def test_lora_plus_gives_b_a_larger_learning_rate_than_a(llama: Path, tmp_path: Path, optimizer: Optimizer) -> None:
    method = lora(loraplus_lr_ratio=16.0, modules_to_save=("lm_head",))
    config = job(llama, method=method, max_steps=2, learning_rate=1e-3, weight_decay=0.1, optimizer=optimizer)

    trainer = build_trainer(tmp_path, config)
    trainer.create_optimizer()

    names = {id(weights): name for name, weights in trainer.model.named_parameters()}
    groups = {
        names[id(weights)]: (round(group["lr"], 9), group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for weights in group["params"]
    }
    assert set(groups) == {name for name, weights in trainer.model.named_parameters() if weights.requires_grad}
    assert {given for name, given in groups.items() if "lora_B" in name} == {(16e-3, 0.1)}
    assert {given for name, given in groups.items() if "lora_B" not in name} == {(1e-3, 0.1)}


def test_a_run_with_lora_plus_moves_b_further_and_resumes_as_if_undisturbed(llama: Path, tmp_path: Path) -> None:
    def moved(run: Finished) -> float:
        weights = load_file(run.volume / layout.OUTPUT_ADAPTER / "adapter_model.safetensors")
        return max(float(value.abs().max()) for name, value in weights.items() if "lora_B" in name)

    options: dict[str, Any] = {"max_steps": 4, "save_every": 2, "learning_rate": 1e-3}
    plus = finish(tmp_path / "plus", job(llama, method=lora(loraplus_lr_ratio=8.0), **options))
    plain = finish(tmp_path / "plain", job(llama, method=lora(), **options))
    again = as_died_after(2, plus, tmp_path / "again")

    outcome = run_train(again, plus.config, attempt=2)

    assert moved(plus) > 4 * moved(plain)
    assert outcome.exit_code is ExitCode.DONE
    one, other = (
        load_file(path / layout.OUTPUT_ADAPTER / "adapter_model.safetensors") for path in (plus.volume, again)
    )
    assert all(weights.equal(other[name]) for name, weights in one.items())

"""EVA: A begins with the main directions of each layer's inputs on the training data, and layers share their ranks."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Precision
from sftjob_contract.run.method import ComputeDtype, LoraBias, Quantization, QuantizationType
from sftjob_trainer.preflight.meta_model import find_refusal
from sftjob_trainer.preflight.run_config import problems
from sftjob_trainer.training import eva
from sftjob_trainer.training.eva import Row, batches
from support.trainer.processes import prepare_for_two, train_in_two
from support.trainer.quantized import write_experts
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
from support.trainer.weights import assert_same_weights

pytestmark = PEFT_IS_BEHIND
ADAPTER = f"{layout.OUTPUT_ADAPTER}/adapter_model.safetensors"
SETTINGS = f"{layout.OUTPUT_ADAPTER}/adapter_config.json"
EVA = {"init_lora_weights": "eva"}
QLORA = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.FLOAT32)
INT8 = replace(QLORA, bits=8)


def with_eva(**settings: Any) -> dict[str, Any]:
    return {**EVA, "eva_config": settings}


def base(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def a_of(trainer: Any) -> dict[str, torch.Tensor]:
    return {
        name.removesuffix(".lora_A.default.weight"): weights.detach()
        for name, weights in trainer.model.named_parameters()
        if ".lora_A." in name
    }


@pytest.fixture(scope="module")
def deep(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with as many layers as PEFT needs to shorten the names of those that have an adapter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = shutil.copytree(llama, tmp_path_factory.mktemp("deep") / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(llama, num_hidden_layers=4, layer_types=None)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def trained(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run in which some layers have no adapter: four times the rank of the others is more than there is."""
    method = lora(rank=2, alpha=8, extra=with_eva(rho=4.0))
    config = job(deep, method=method, max_steps=4, save_every=2, learning_rate=1e-2)
    merged = replace(config, output=replace(config.output, merge_adapter=True))
    return finish(tmp_path_factory.mktemp("eva"), merged)


def test_a_is_what_peft_computes_on_the_same_batches(llama: Path, tmp_path: Path) -> None:
    from datasets import load_from_disk
    from peft import EvaConfig, LoraConfig, get_eva_state_dict

    trainer = build_trainer(tmp_path, job(llama, method=lora(extra=EVA), max_steps=2))
    rows = load_from_disk(tmp_path / layout.PREPARED_TRAIN)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(trainer.args.seed)).tolist()
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights="eva", eva_config=EvaConfig())
    model = base(llama)
    layers = {name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)} - {"lm_head"}
    config.target_modules = layers

    batch = trainer.data_collator([rows[index] for index in order])
    expected = get_eva_state_dict(model, [batch], peft_config=config, show_progress_bar=False)

    found = a_of(trainer)
    assert {name: len(one) for name, one in found.items()} == {
        f"base_model.model.{name}": len(one) for name, one in expected.items() if len(one)
    }
    for name, directions in found.items():
        torch.testing.assert_close(directions, expected[name.removeprefix("base_model.model.")].float())
    b = [weights.detach() for name, weights in trainer.model.named_parameters() if ".lora_B." in name]
    assert len(b) == len(found)
    assert not any(weights.any() for weights in b)


def test_layers_share_the_ranks_and_the_published_adapter_is_the_trained_model(deep: Path, trained: Finished) -> None:
    from peft import PeftModel

    assert trained.outcome.output is not None, trained.outcome.message
    settings = json.loads((trained.volume / SETTINGS).read_text())
    loaded = PeftModel.from_pretrained(base(deep), str(trained.volume / layout.OUTPUT_ADAPTER))
    ranks = {name: len(weights) for name, weights in loaded.named_parameters() if ".lora_A." in name}
    scales = {
        layer.scaling["default"] for name, layer in loaded.named_modules() if f"{name}.lora_A.default.weight" in ranks
    }

    metrics = trained.outcome.output.metrics
    assert token_mean_loss(loaded.eval(), trained) == pytest.approx(metrics["evalLoss"], abs=1e-4)
    assert metrics["mergedEvalLoss"] == pytest.approx(metrics["evalLoss"], abs=1e-4)
    assert metrics["evalLoss"] < metrics["initialEvalLoss"] - 0.01
    assert (settings["r"], settings["eva_config"]["rho"]) == (2, 4.0)
    assert settings["rank_pattern"]
    assert sum(ranks.values()) == 2 * 28
    assert 20 <= len(ranks) < 28
    assert max(ranks.values()) <= 8
    assert scales == {4.0}


def test_a_run_resumes_as_if_undisturbed_and_computes_nothing_again(
    trained: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = as_died_after(2, trained, tmp_path / "died")
    monkeypatch.setattr(eva, "initialize", None)

    outcome = run_train(volume, trained.config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE, outcome.message
    assert_same_weights(trained.volume / ADAPTER, volume / ADAPTER, atol=1e-6)
    assert (volume / SETTINGS).read_text() == (trained.volume / SETTINGS).read_text()


@pytest.mark.slow
def test_two_processes_begin_as_one_does_and_train_the_same(llama: Path, tmp_path: Path) -> None:
    """DDP would give an error for layers of different ranks."""
    one, two = (job(llama, method=lora(extra=EVA), max_steps=4, per_device_batch_size=size) for size in (4, 2))
    single = finish(tmp_path / "one", one)
    volume = tmp_path / "two"
    prepare_for_two(volume, two)

    ended = train_in_two(tmp_path / "pod", volume, two)

    assert ended.code == ExitCode.DONE, ended.err
    assert_same_weights(single.volume / ADAPTER, volume / ADAPTER, atol=1e-5)
    assert (volume / SETTINGS).read_text() == (single.volume / SETTINGS).read_text()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param({"quantization": QLORA}, {}, id="4 bits"),
        pytest.param({"quantization": INT8}, {}, id="8 bits"),
        pytest.param({"dora": True, "rslora": True}, {}, id="DoRA"),
        pytest.param({"bias": LoraBias.ALL, "modules_to_save": ("lm_head",)}, {}, id="head"),
        pytest.param({}, {"packing": True, "gradient_checkpointing": True}, id="packed"),
        pytest.param({}, {"precision": Precision.BF16}, id="bf16"),
        pytest.param({"target_modules": ("embed_tokens", "q_proj")}, {}, id="embedding"),
    ],
)
def test_it_goes_with_what_else_lora_has(
    llama: Path, tmp_path: Path, method: dict[str, Any], options: dict[str, Any]
) -> None:
    config = job(llama, method=lora(extra=with_eva(rho=1.0), **method), max_steps=2, **options)

    trainer = build_trainer(tmp_path, config)

    found = a_of(trainer)
    assert found
    for directions in found.values():
        assert directions.dtype is torch.float32
        torch.testing.assert_close(directions @ directions.T, torch.eye(4), atol=1e-5, rtol=0)
    assert trainer.model.peft_config["default"].rank_pattern == {}


def test_it_ends_where_directions_never_stay_as_they_are(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(eva, "MAX_PASSES", 3)

    with caplog.at_level(logging.INFO):
        trainer = build_trainer(tmp_path, job(llama, method=lora(extra=with_eva(tau=1.0)), max_steps=2))

    assert "EVA: some directions had not converged after 3 passes and are used as they were" in caplog.messages
    assert all(directions.isfinite().all() for directions in a_of(trainer).values())


SHORT, LONG, PROMPT = Row(tokens=100, counted=100), Row(tokens=3000, counted=3000), Row(tokens=3000, counted=5)


@pytest.mark.parametrize(
    ("rows", "least", "expected"),
    [
        pytest.param([SHORT] * 3, 64, [3], id="all that there is"),
        pytest.param([SHORT] * 25, 64, [11, 11, 3], id="as many as are enough"),
        pytest.param([SHORT] * 3, 400, [], id="too few"),
        pytest.param([LONG] * 3, 64, [1, 1, 1], id="long rows"),
        pytest.param([LONG] * 3, 4000, [2], id="more than enough is needed"),
        pytest.param([PROMPT] * 12, 16, [4, 4, 4], id="few of many tokens count"),
        pytest.param([PROMPT] * 12, 64, [], id="too few of too many tokens count"),
        pytest.param([LONG] * 200, 64, [1] * 32, id="no more than are needed"),
    ],
)
def test_a_batch_has_as_many_rows_as_have_enough_positions(rows: list[Row], least: int, expected: list[int]) -> None:
    found = list(batches(range(len(rows)), lambda index: rows[index], minimum=least))

    assert [len(together) for together in found] == expected
    assert len({index for together in found for index in together}) == sum(expected)


def refused(extra: dict[str, Any], resume_from: str | None = None) -> list[str]:
    config = run_config(model="/m", dataset="/d", method=lora(extra=extra))
    return list(problems(replace(config, checkpoints=replace(config.checkpoints, resume_from=resume_from))))


@pytest.mark.parametrize(
    ("extra", "resume_from", "sentence"),
    [
        (
            EVA,
            "/other",
            "method.lora.extra.init_lora_weights: eva cannot be combined with checkpoints.resumeFrom, which st",
        ),
        (
            {**EVA, "trainable_token_indices": [3]},
            None,
            "method.lora.extra.init_lora_weights: eva cannot be combined with method.lora.extra.trainable_token_indi",
        ),
        ({"eva_config": {"rho": 1.0}}, None, "method.lora.extra.eva_config is for method.lora.extra.init_lora_weight"),
        ({**EVA, "eva_config": 2}, None, "method.lora.extra.eva_config must be a map, such as {rho: 1}, not a number"),
        (with_eva(roh=1.0), None, "method.lora.extra.eva_config.roh is not a field of the installed peft.EvaConfig; s"),
        (with_eva(rho="2"), None, "method.lora.extra.eva_config.rho must be a number, not text"),
        (
            with_eva(label_mask_value=0),
            None,
            "method.lora.extra.eva_config.label_mask_value cannot be set here: remove it, since labels that are not",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(
    extra: dict[str, Any], resume_from: str | None, sentence: str
) -> None:
    found = refused(extra, resume_from)

    assert len(found) == 1
    assert found[0].startswith(sentence)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (EVA, None),
        (with_eva(rho=0.5), 'method.lora.extra.eva_config: {"rho": 0.5}: PEFT refuses it: `rho` must be >= 1.0'),
        (
            with_eva(rho=5.0),
            (
                "method.lora.extra.init_lora_weights: eva looks for rank x rho = 20 directions (4 x 5) among the "
                "inputs of a layer, of which model.layers.0.mlp.gate_proj has 32, and there must be twice as many; "
                "lower method.lora.rank, or write a lower rho in method.lora.extra.eva_config"
            ),
        ),
    ],
)
def test_values_that_the_model_cannot_have_are_known_in_prepare(
    llama: Path, extra: dict[str, Any], sentence: str | None
) -> None:
    assert find_refusal(job(llama, method=lora(extra=extra), max_steps=2), llama) == sentence


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ({"extra": EVA}, "eva"),
        ({"extra": {"init_lora_weights": "loftq"}, "quantization": QLORA}, "loftq"),
    ],
)
def test_adapters_of_experts_are_refused_in_prepare(tmp_path: Path, method: dict[str, Any], name: str) -> None:
    model = write_experts(tmp_path)

    assert find_refusal(job(model, method=lora(**method), max_steps=2), model) == (
        f"method.lora.extra.init_lora_weights: {name} is not for weights of experts, such as model.layers.0.mlp.experts"
        "; write linear layers in method.lora.targetModules, such as q_proj and v_proj, or remove it"
    )
    others = lora(target_modules=("q_proj", "v_proj"), **method)
    assert find_refusal(job(model, method=others, max_steps=2), model) is None


def test_data_with_too_few_trained_tokens_is_refused(llama: Path, tmp_path: Path) -> None:
    config = job(llama, method=lora(extra=with_eva(rho=3.9)), max_steps=2)
    write_prepared(tmp_path, config, rows=2)

    outcome = run_train(tmp_path, config)

    assert outcome.reason is Reason.DATA_INVALID
    assert str(outcome.message).startswith(
        "method.lora.extra.init_lora_weights: eva needs 32 trained tokens at a time, which the rows to train on do not"
    )


def test_another_run_goes_on_with_the_ranks_that_were_found(deep: Path, trained: Finished, tmp_path: Path) -> None:
    source = str(trained.volume / layout.CHECKPOINTS / "checkpoint-4")
    settings = json.loads((trained.volume / SETTINGS).read_text())

    def going_on(name: str, method: Any) -> Finished:
        config = job(deep, method=method, max_steps=2)
        config = replace(config, checkpoints=replace(config.checkpoints, resume_from=source))
        return finish(tmp_path / name, config)

    plain = going_on("plain", lora(rank=2, alpha=8)).outcome
    assert plain.reason is Reason.CONFIG_INVALID
    assert str(plain.message).endswith(
        "EVA chose its layers and their ranks; write target_modules of its adapter_config.json in "
        "method.lora.targetModules, and rank_pattern and alpha_pattern in method.lora.extra"
    )
    extra = {name: settings[name] for name in ("rank_pattern", "alpha_pattern")}
    other = going_on(
        "other", lora(rank=2, alpha=8, target_modules=tuple(settings["target_modules"]), extra=extra)
    ).outcome
    assert other.output is not None, other.message
    assert trained.outcome.output is not None
    assert other.output.metrics["initialEvalLoss"] == pytest.approx(
        trained.outcome.output.metrics["evalLoss"], abs=1e-4
    )

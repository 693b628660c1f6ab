"""What TRL, PEFT and transformers refuse is known in Prepare: the trainer is made of a model without weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, Method, Quantization, QuantizationType
from sftjob_contract.run.optimization import Optimizer
from sftjob_trainer.preflight import construction_check, meta_model
from sftjob_trainer.preflight.construction_check import check_construction
from sftjob_trainer.preflight.meta_model import UndeterminedError, construct_without_weights, find_refusal
from sftjob_trainer.process import subprocess_check
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.subprocess_check import NoResultError, available_memory_bytes, run_check
from support.trainer.preparing import Workbench
from support.trainer.rope import scaled, scaling
from support.trainer.tiny import lora, run_config
from support.trainer.training import PEFT_IS_BEHIND

pytestmark = PEFT_IS_BEHIND


def quantization(bits: int = 4) -> Quantization:
    return Quantization(
        bits=bits,
        type=QuantizationType.NF4,
        double_quantization=True,
        compute_dtype=ComputeDtype.BFLOAT16,
    )


def config_of(*, method: Method | None = None, gpus: int = 0, **training: Any) -> RunConfig:
    return replace(run_config(model="hf://org/name", dataset="d", method=method, **training), gpus=gpus)


@pytest.mark.parametrize(
    ("architecture", "config", "sentence"),
    [
        (
            "qwen2",
            config_of(extra={"lr_scheduler_kwargs": {"wheels": 3}}),
            'training.extra.lr_scheduler_kwargs: {"wheels": 3}: transformers refuses it: get_cosine_schedule_with_w',
        ),
        (
            "llama",
            config_of(extra={"adam_beta2": 0.9, "loss_type": "mse"}),
            'training.extra.loss_type: "mse": TRL refuses it: Invalid `loss_type` mse passed.',
        ),
        (
            "llama",
            config_of(extra={"adam_beta1": 1.5, "adam_beta2": 0.9}),
            "training.extra.adam_beta1: 1.5: PyTorch refuses it: Invalid beta parameter at index 0: 1.5",
        ),
        (
            "llama",
            config_of(extra={"dataloader_persistent_workers": True}),
            "training.extra.dataloader_persistent_workers: true: PyTorch refuses it: persistent_workers option needs ",
        ),
        (
            "llama",
            config_of(gradient_checkpointing=True, extra={"activation_checkpointing_kwargs": {"use_wheels": True}}),
            'training.extra.activation_checkpointing_kwargs: {"use_wheels": true}: PyTorch refuses it: layer() go',
        ),
        (
            "llama",
            config_of(method=lora(extra={"layers_pattern": "h"})),
            'method.lora.extra.layers_pattern: "h": PEFT refuses it: ',
        ),
        (
            "llama",
            config_of(method=lora(extra={"layers_to_transform": [7]}, target_modules=("q_proj",))),
            "method.lora.extra.layers_to_transform: [7]: PEFT refuses it: ",
        ),
        (
            "llama",
            config_of(method=lora(extra={"exclude_modules": ["q_proj"]}, target_modules=("q_proj",))),
            'method.lora.extra.exclude_modules: ["q_proj"]: PEFT refuses it: ',
        ),
        (
            "llama",
            config_of(method=lora(target_modules=("c_attn",))),
            "method.lora.targetModules: c_attn is not a layer of the model; it has q_proj, k_proj, v_proj, o_proj, ",
        ),
        (
            "qwen2",
            config_of(method=lora(extra={"trainable_token_indices": [3, 4]})),
            "method.lora.extra.trainable_token_indices: [3, 4]: the model's output head is its embedding, and PEFT's ",
        ),
        (
            "llama",
            config_of(method=lora(extra={"trainable_token_indices": {"embed_tokens": [3, 512]}})),
            "method.lora.extra.trainable_token_indices: 512 is not a token of the model; its embedding has 512 rows, ",
        ),
        (
            "llama",
            config_of(method=lora(target_modules=("q_proj", "model.layers.9.mlp.up_proj"))),
            "method.lora.targetModules: model.layers.9.mlp.up_proj is not a layer of the model",
        ),
        (
            "llama",
            config_of(method=lora(extra={"lora_bias": True}, quantization=quantization(), dora=True)),
            "method.lora.extra.lora_bias: true: PEFT refuses it: The argument lora_bias=True is not supported for DoRA",
        ),
        (
            "llama",
            config_of(method=lora(extra={"init_lora_weights": "corda"})),
            'method.lora.extra.init_lora_weights: "corda": PEFT refuses it: ',
        ),
        (
            "llama",
            config_of(
                extra={"dataloader_num_workers": 1, "lr_scheduler_kwargs": {"power": 2}}, optimizer=Optimizer.ADAFACTOR
            ),
            'training.extra.lr_scheduler_kwargs: {"power": 2}: transformers refuses it: ',
        ),
    ],
)
def test_what_a_library_refuses_is_named_with_value_and_its_own_words(
    request: pytest.FixtureRequest, architecture: str, config: RunConfig, sentence: str
) -> None:
    found = find_refusal(config, request.getfixturevalue(architecture))

    assert found is not None
    assert found.startswith(sentence)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config_of(extra={"adam_beta2": 0.9, "lr_scheduler_kwargs": {"num_cycles": 1}}), id="full"),
        pytest.param(config_of(gpus=1, extra={"tf32": True}, precision=Precision.FP16), id="a GPU's options"),
        pytest.param(config_of(method=lora(extra={"rank_pattern": {"q_proj": 2}})), id="lora"),
        pytest.param(config_of(method=lora(modules_to_save=("lm_head", "embed_tokens"))), id="modules to save"),
        pytest.param(config_of(method=lora(dora=True, extra={"init_lora_weights": "gaussian"})), id="dora"),
        pytest.param(config_of(method=lora(quantization=quantization()), gpus=1), id="qlora"),
        pytest.param(config_of(method=lora(quantization=quantization(8), rslora=True), gpus=1), id="8 bits"),
        pytest.param(config_of(method=lora(quantization=quantization(), dora=True), gpus=1), id="dora of 4 bits"),
        pytest.param(
            config_of(gradient_checkpointing=True, extra={"activation_checkpointing_kwargs": {"every_n_layers": 2}}),
            id="checkpointing",
        ),
        pytest.param(
            config_of(extra={"dataloader_num_workers": 1, "dataloader_persistent_workers": True}), id="workers"
        ),
        pytest.param(config_of(packing=True, neftune_noise_alpha=5.0, gradient_checkpointing=True), id="options"),
        pytest.param(
            config_of(optimizer=Optimizer.PAGED_ADAMW_8BIT, method=lora(rank=1024)), id="a rank above all sizes"
        ),
    ],
)
def test_what_the_libraries_take_is_not_refused(
    request: pytest.FixtureRequest, architecture: str, config: RunConfig
) -> None:
    assert find_refusal(config, request.getfixturevalue(architecture)) is None


def test_a_model_without_weights_has_none(llama: Path) -> None:
    trainer = construct_without_weights(config_of(method=lora()), llama, quantized=False)

    assert {weights.device.type for weights in trainer.model.parameters()} == {"meta"}


def test_options_that_are_refused_only_together_are_all_named(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_two(config: RunConfig, *_: Any, **__: Any) -> None:
        if len(config.training.extra) > 0:
            raise ValueError("one is too many")

    monkeypatch.setattr(meta_model, "construct_without_weights", needs_two)

    assert find_refusal(config_of(extra={"adam_beta1": 0.8, "adam_beta2": 0.9}), llama) == (
        "training.extra.adam_beta1: 0.8, training.extra.adam_beta2: 0.9: the library refuses them together: "
        "one is too many"
    )


@pytest.mark.parametrize("error", [NotImplementedError("no"), ValueError("Cannot copy out of meta tensor"), OSError()])
def test_what_fails_whatever_the_options_are_is_no_refusal(
    llama: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(meta_model, "construct_without_weights", fails)

    with pytest.raises(UndeterminedError):
        find_refusal(config_of(extra={"adam_beta2": 0.9}, method=lora(dora=True)), llama)


def test_a_model_that_cannot_be_made_is_left_to_train(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')

    with pytest.raises(UndeterminedError, match="no model can be made without weights"):
        find_refusal(config_of(extra={"adam_beta2": 0.9}), tmp_path)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (NoResultError("no answer within 300 s"), "check them when the model is loaded: no answer within 300 s"),
        ({"refused": None, "unknown": "no model"}, "not all could be tried without weights: no model"),
    ],
)
def test_without_an_answer_the_job_goes_on_and_the_log_says_so(
    llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: Any, line: str
) -> None:
    def answered(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(construction_check, "run_check", answered)
    caplog.set_level("INFO")

    check_construction(config_of(extra={"adam_beta2": 0.9}), llama, layers_known=True)

    assert line in caplog.text


def test_nothing_is_made_where_every_option_is_known_to_be_taken(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(construction_check, "run_check", lambda *_, **__: pytest.fail("a process was started"))

    for method in (None, lora(dora=True), lora(quantization=quantization())):
        check_construction(config_of(method=method), llama, layers_known=True)


@pytest.mark.parametrize(
    ("config", "layers_known", "kind"),
    [
        (config_of(extra={"adam_beta2": 0.9}), True, "llama"),
        (config_of(method=lora(extra={"lora_bias": True})), True, "llama"),
        (config_of(method=lora(modules_to_save=("lm_head",))), True, "llama"),
        (config_of(method=lora(target_modules=("q_proj",))), False, "llama"),
        (config_of(), True, "unheard-of"),
        (scaled(config_of(), scaling()), True, "llama"),
    ],
)
def test_the_trainer_is_made_wherever_something_may_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RunConfig, layers_known: bool, kind: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    monkeypatch.setattr(
        construction_check, "run_check", lambda *_, **__: {"refused": "training.extra: no", "unknown": None}
    )

    with pytest.raises(StageError, match=r"training\.extra: no") as refused:
        check_construction(config, tmp_path, layers_known=layers_known)

    assert refused.value.reason is Reason.CONFIG_INVALID


@pytest.mark.slow
def test_prepare_ends_before_the_data_is_read(bench: Workbench) -> None:
    data = bench.write("data.jsonl", [{"text": "a b c"}] * 9)

    with pytest.raises(StageError) as refused:
        bench.prepare(data, extra={"lr_scheduler_kwargs": {"wheels": 3}})

    assert refused.value.message.startswith(
        'training.extra.lr_scheduler_kwargs: {"wheels": 3}: transformers refuses it'
    )
    assert not (bench.volume / "prepared" / "train").exists()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import time; time.sleep(60)", "no answer within"),
        ("raise SystemExit(3)", "exit code 3: it printed nothing"),
        ("print('no json')", "its last line is not JSON"),
        (
            "from sftjob_trainer.process.subprocess_check import limit_memory; limit_memory(); bytearray(7 * 2**30)",
            "exit code 1: MemoryError",
        ),
    ],
)
def test_a_process_that_gives_no_answer_is_bounded_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, why: str
) -> None:
    (tmp_path / "asked.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(NoResultError, match=why):
        run_check("asked", [], timeout_seconds=2.0 if "sleep" in program else 60.0)


@pytest.mark.parametrize(
    ("limit", "stat", "expected"),
    [
        ("2147483648\n", "anon 1610612736\nfile 536870912\n", 536870912),
        ("max\n", "anon 1\n", None),
        ("1073741824\n", "file 1\n", None),
        (None, "", None),
    ],
)
def test_memory_that_is_left_is_the_limit_without_what_cannot_be_given_back(
    tmp_path: Path, limit: str | None, stat: str, expected: int | None
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.stat").write_text(stat)

    assert available_memory_bytes(tmp_path) == expected


def test_no_process_is_started_where_it_might_end_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_check, "available_memory_bytes", lambda: 600 * 2**20)
    monkeypatch.setattr(subprocess_check.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))

    with pytest.raises(NoResultError, match=r"only 600 MiB are left; raise resources\.memory"):
        run_check("asked", [], timeout_seconds=1)

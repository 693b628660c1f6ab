"""How each stage ends: exit code, reason and sentence of what cannot be run, and that 0 means trained as asked."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout, names
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import Attention, ChatTemplate, Kernels, LossOn, ModelDtype, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, Distillation, Quantization, QuantizationType, Teacher
from sftjob_trainer.__main__ import run
from support.forking import python
from support.trainer.preparing import Workbench
from support.trainer.tiny import POSITIONS, held_out_fraction, lora, write_model
from support.trainer.training import PEFT_IS_BEHIND, read_metrics, run_train, write_prepared

pytestmark = PEFT_IS_BEHIND

HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "pyarrow", "numpy"}
GOOD = [{"prompt": "what does it do", "completion": " open a file"}] * 5
CHATS = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "open a file"}]}] * 5


@pytest.fixture
def bench(tmp_path: Path, llama: Path) -> Workbench:
    import torch  # noqa: F401 -- loaded already, so that preparing does not hide it from this process

    return Workbench(tmp_path, llama)


def variables(bench: Workbench, config: RunConfig) -> dict[str, str]:
    """What a container's environment says."""
    path = bench.root / "config.json"
    path.write_text(to_json(config), encoding="utf-8")
    return {
        names.ENV_RUN_CONFIG: str(path),
        names.ENV_VOLUME: str(bench.volume),
        names.ENV_TERMINATION_LOG: str(bench.root / "termination-log"),
    }


def of(section: str, **changes: Any) -> Callable[[RunConfig], RunConfig]:
    """A run config with other values in one section."""
    return lambda config: replace(config, **{section: replace(getattr(config, section), **changes)})


def from_source(place: str) -> Callable[[RunConfig], RunConfig]:
    """A run config with other data."""
    return lambda config: replace(
        config, dataset=replace(config.dataset, sources=(replace(config.dataset.sources[0], source=place),))
    )


def template(jinja: str) -> Callable[[RunConfig], RunConfig]:
    return of("model", chat_template=ChatTemplate(name=None, jinja=jinja, file=None))


def with_teacher(place: str) -> Callable[[RunConfig], RunConfig]:
    teacher = Teacher(source=place, revision=None)
    return of("method", distillation=Distillation(teacher=teacher, temperature=2.0, alpha=0.5))


QUANTIZED = Quantization(
    bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16
)
INVALID, MISSING = ExitCode.INVALID, ExitCode.NOT_FOUND
BAD_CONFIG, NO_MODEL, NO_DATA = Reason.CONFIG_INVALID, Reason.MODEL_NOT_FOUND, Reason.DATASET_NOT_FOUND
TOO_FEW = (
    "dataset: 5 sequences to train on are fewer than one batch of 8; add rows, or set training.perDeviceBatchSize to"
)

PREPARE = [
    # what is changed, exit code, reason, how the sentence begins
    (of("model", source="/nowhere"), MISSING, NO_MODEL, "/nowhere does not exist; / has "),
    (
        of("model", source="pvc://none/model"),
        INVALID,
        BAD_CONFIG,
        "pvc://none/model: the claim none is not mounted in this container",
    ),
    (
        from_source("/nowhere.jsonl"),
        MISSING,
        NO_DATA,
        "/nowhere.jsonl does not exist; / has ",
    ),
    (
        from_source("pvc://none/d.jsonl"),
        INVALID,
        BAD_CONFIG,
        "pvc://none/d.jsonl: the claim none is not mounted in this container",
    ),
    (
        of("training", max_length=POSITIONS + 1),
        INVALID,
        BAD_CONFIG,
        f"training.maxLength is {POSITIONS + 1} but the model has {POSITIONS} positions; set it to {POSITIONS} or less",
    ),
    (
        of("training", loss_on=LossOn.ASSISTANT),
        INVALID,
        BAD_CONFIG,
        "training.lossOn: assistant does not match rows of a prompt and a completion that are text",
    ),
    (
        of("dataset", min_tokens=60),
        INVALID,
        Reason.DATA_INVALID,
        "dataset: no row is left: 5 rows have fewer tokens than dataset.minTokens or more than dataset.maxTokens",
    ),
    (
        of("dataset", evaluation=held_out_fraction(0.0), max_tokens=1),
        INVALID,
        Reason.DATA_INVALID,
        "dataset: no row is left: 5 rows have fewer tokens than dataset.minTokens or more than dataset.maxTokens",
    ),
    (
        of("training", per_device_batch_size=8),
        INVALID,
        Reason.DATA_INVALID,
        f"{TOO_FEW} 5",
    ),
    (
        lambda config: replace(of("training", per_device_batch_size=2)(config), gpus=2, nodes=2),
        INVALID,
        Reason.DATA_INVALID,
        f"{TOO_FEW} 1",
    ),
    (template("{{ messages"), INVALID, BAD_CONFIG, "model.chatTemplate.jinja"),
    (with_teacher("/nowhere"), MISSING, NO_MODEL, "/nowhere does not exist; / has "),
    (
        of("training", early_stopping=None, extra={"max_seq_length": 9}),
        INVALID,
        BAD_CONFIG,
        "run config: training.extra.max_seq_length is not a field of the installed trl.SFTConfig",
    ),
    (
        of("training", extra={"dataloader_drop_last": True}),
        INVALID,
        BAD_CONFIG,
        "run config: training.extra.dataloader_drop_last cannot be set here: remove it",
    ),
    (
        of("evaluation", save_predictions=True),
        INVALID,
        BAD_CONFIG,
        "run config: evaluation.savePredictions needs held-out data: set dataset.evaluation, or remove ",
    ),
]


@pytest.mark.parametrize(("change", "code", "reason", "sentence"), PREPARE)
def test_what_can_not_be_prepared_ends_with_its_code_reason_and_sentence(
    bench: Workbench, change: Callable[[RunConfig], RunConfig], code: ExitCode, reason: Reason, sentence: str
) -> None:
    config = change(bench.config(bench.write("d.jsonl", GOOD)))

    ended = run(Stage.PREPARE, variables(bench, config))

    assert (ended.exit_code, ended.reason) == (code, reason), ended.message
    assert ended.message is not None
    assert ended.message.startswith(sentence), ended.message
    assert not (bench.volume / layout.PREPARED_STATS).exists()


TRAIN = [
    (
        of("training", precision=Precision.FP16),
        INVALID,
        BAD_CONFIG,
        "training.precision: fp16 needs a GPU; write bf16, fp32 or auto",
    ),
    (
        of("training", kernels=Kernels.LIGER),
        INVALID,
        BAD_CONFIG,
        "training.kernels: liger needs a GPU; write none or auto",
    ),
    (
        of("model", dtype=ModelDtype.FLOAT16),
        INVALID,
        BAD_CONFIG,
        "model.dtype: float16 needs a GPU; write bfloat16, float32 or auto",
    ),
    (
        of("model", attention=Attention.FLEX_ATTENTION),
        INVALID,
        BAD_CONFIG,
        "model.attention: flex_attention cannot train on the CPU; write sdpa, eager or auto",
    ),
    (
        of("model", attention=Attention.FLASH_ATTENTION_2),
        INVALID,
        BAD_CONFIG,
        "model.attention: flash_attention_2 needs a GPU; write sdpa, eager or auto",
    ),
    (
        lambda config: replace(config, method=lora(target_modules=("attention",))),
        INVALID,
        BAD_CONFIG,
        "method.lora.targetModules: attention is not a layer of the model; it has q_proj, k_proj, v_proj, o_proj, ",
    ),
    (
        lambda config: replace(config, method=lora(modules_to_save=("score",))),
        INVALID,
        BAD_CONFIG,
        "method.lora.modulesToSave: score is not a layer of the model; it has embed_tokens, ",
    ),
    (
        of("method", quantization=QUANTIZED),
        INVALID,
        BAD_CONFIG,
        "run config: method.quantization needs method.lora: quantized weights themselves cannot be trained",
    ),
    (
        of("checkpoints", resume_from="/nowhere"),
        MISSING,
        NO_MODEL,
        "checkpoints.resumeFrom: /nowhere does not exist; / has ",
    ),
    (
        of("training", extra={"lr_scheduler_kwargs": {"wheels": 3}}),
        INVALID,
        BAD_CONFIG,
        "training.extra: lr_scheduler_kwargs: TRL refuses it: ",
    ),
    (
        of("training", learning_rate=1e30, max_grad_norm=0.0),
        ExitCode.DIVERGED,
        Reason.DIVERGED,
        "training diverged: ",
    ),
]


@pytest.mark.parametrize(("change", "code", "reason", "sentence"), TRAIN)
def test_what_can_not_be_trained_ends_with_its_code_reason_and_sentence(
    bench: Workbench, change: Callable[[RunConfig], RunConfig], code: ExitCode, reason: Reason, sentence: str
) -> None:
    config = bench.config("unused", max_steps=4, warmup_ratio=None)
    write_prepared(bench.volume, config)

    ended = run(Stage.TRAIN, variables(bench, change(config)))

    assert (ended.exit_code, ended.reason) == (code, reason), ended.message
    assert ended.message is not None
    assert ended.message.startswith(sentence), ended.message
    assert not (bench.volume / layout.OUTPUT).exists()


def no_header(weights: dict[str, Any], path: Path) -> None:
    path.write_bytes(b"no weights")


def cut_off(weights: dict[str, Any], path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without_a_layer(weights: dict[str, Any], path: Path) -> None:
    save_weights({name: one for name, one in weights.items() if ".layers.1." not in name}, path)


def of_another_width(weights: dict[str, Any], path: Path) -> None:
    save_weights({name: one[:-1] if "norm" in name else one for name, one in weights.items()}, path)


def save_weights(weights: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [no_header, cut_off, without_a_layer, of_another_width])
def test_weights_that_are_damaged_or_not_all_there_can_not_be_trained(
    bench: Workbench, tmp_path: Path, damage: Callable[[dict[str, Any], Path], None]
) -> None:
    """transformers would fill up what is missing with random numbers."""
    from safetensors.torch import load_file

    path = write_model(tmp_path / "model") / "model.safetensors"
    damage(load_file(path), path)
    config = bench.config("unused", model=str(path.parent), max_steps=1)
    write_prepared(bench.volume, config)

    ended = run(Stage.TRAIN, variables(bench, config))

    assert (ended.exit_code, ended.reason) == (INVALID, BAD_CONFIG), ended.message
    assert ended.message is not None
    assert ended.message.startswith(f"model.source: {path.parent} cannot be loaded as a causal language model: ")


def test_training_before_preparing_is_a_fault_of_ours(bench: Workbench) -> None:
    ended = run(Stage.TRAIN, variables(bench, bench.config("unused")))

    assert (ended.exit_code, ended.reason) == (ExitCode.INTERNAL, Reason.INTERNAL_ERROR)
    assert ended.message is not None
    assert "the Prepare stage must run first" in ended.message


@pytest.mark.parametrize(
    ("rows", "options", "steps"),
    [
        pytest.param(9, {"per_device_batch_size": 8}, 2, id="a last batch that is not full"),
        pytest.param(3, {"per_device_batch_size": 2, "gradient_accumulation_steps": 8}, 1, id="fewer than one step"),
        pytest.param(3, {"max_steps": 7}, 7, id="more steps than rows"),
        pytest.param(20, {"max_steps": 3}, 3, id="fewer steps than an epoch"),
        pytest.param(5, {"epochs": 0.3}, 1, id="part of an epoch"),
        pytest.param(3, {"packing": True, "per_device_batch_size": 8}, 1, id="one packed sequence"),
    ],
)
def test_zero_means_that_every_step_was_trained(
    bench: Workbench, rows: int, options: dict[str, Any], steps: int
) -> None:
    config = bench.config(bench.write("d.jsonl", GOOD[:1] * rows), **options)
    stats = bench.run(config)

    outcome = run_train(bench.volume, config)

    assert outcome.exit_code is ExitCode.DONE
    assert outcome.progress is not None
    assert stats.max_steps == steps == outcome.progress.step
    losses = read_metrics(bench.volume).values("loss")
    assert list(losses) == list(range(1, steps + 1))
    assert all(loss > 0 for loss in losses.values())
    assert outcome.output is not None
    assert (bench.volume / outcome.output.path / "model.safetensors").exists()


def process(
    stage: Stage, environ: Mapping[str, str], *options: str, interpreter: Path | str = sys.executable
) -> "subprocess.CompletedProcess[str]":
    """The stage as a container runs it."""
    command = [interpreter, *options, "-m", "sftjob_trainer", stage]
    given = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=120)


def last_word(bench: Workbench) -> Outcome:
    return from_json(Outcome, (bench.root / "termination-log").read_bytes(), ignore_unknown=False)


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(of("training", max_steps=3), id="contradiction"),
        pytest.param(of("training", extra={"warmup_ratio": 0.1}), id="unknown name in training.extra"),
        pytest.param(of("dataset", min_tokens=9, max_tokens=3), id="empty range"),
        pytest.param(of("method", quantization=QUANTIZED), id="quantized weights alone"),
    ],
)
def test_a_config_is_refused_before_anything_heavy_is_imported(
    bench: Workbench, stage: Stage, change: Callable[[RunConfig], RunConfig]
) -> None:
    """Each import of those takes seconds; without them a refusal takes a fraction of one."""
    done = process(stage, variables(bench, change(bench.config("/d.jsonl"))), "-X", "importtime")

    lines = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert done.returncode == ExitCode.INVALID, done.stderr
    assert last_word(bench).reason is Reason.CONFIG_INVALID
    assert "sftjob_trainer.preflight.run_config" in lines
    assert not HEAVY & {line.partition(".")[0] for line in lines}


NOTHING_LEFT = [
    pytest.param(of("dataset", min_tokens=60), GOOD, id="no row after filters"),
    pytest.param(
        of("training", max_length=8),
        [{"prompt": "what does it do with a string", "completion": " open"}] * 3,
        id="no trained token",
    ),
    pytest.param(of("dataset"), [], id="no row"),
]


@pytest.mark.parametrize(("change", "rows"), NOTHING_LEFT)
def test_a_process_with_nothing_to_train_on_does_not_end_with_zero(
    bench: Workbench, change: Callable[[RunConfig], RunConfig], rows: list[Any]
) -> None:
    environ = variables(bench, change(bench.config(bench.write("d.jsonl", rows))))

    done = process(Stage.PREPARE, environ, interpreter=python())

    assert done.returncode == ExitCode.INVALID
    assert last_word(bench).reason is Reason.DATA_INVALID
    assert done.stderr.startswith("prepare failed: DataInvalid: ")


RECORDER = """
import socket, sys
def tell(line):
    with open({path!r}, "a") as file:
        file.write(line + "\\n")
def record(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect"):
        tell(f"{{event}} {{arguments[-2:]}}")
if "-m" in sys.orig_argv:
    tell("listening")
    sys.addaudithook(record)
"""


@pytest.mark.slow
def test_both_processes_end_with_zero_after_one_step_and_ask_for_no_address(bench: Workbench, tmp_path: Path) -> None:
    """Chats that fill less than one step, from a model and data that are local."""
    asked = tmp_path / "asked"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(RECORDER.format(path=str(asked)), encoding="utf-8")
    config = bench.config(bench.write("d.jsonl", CHATS), per_device_batch_size=4, gradient_accumulation_steps=2)
    environ = {**variables(bench, config), "PYTHONPATH": str(hooks)}

    prepared = process(Stage.PREPARE, environ, interpreter=python())
    stats = last_word(bench).prepared
    trained = process(Stage.TRAIN, environ)

    assert (prepared.returncode, trained.returncode) == (ExitCode.DONE, ExitCode.DONE), trained.stderr
    assert stats is not None
    progress = last_word(bench).progress
    assert progress is not None
    assert (stats.sequences, stats.max_steps, progress.step, progress.tokens) == (5, 1, 1, stats.tokens)
    assert (bench.volume / layout.OUTPUT_MODEL / "model.safetensors").exists()
    assert asked.read_text() == "listening\n" * 2

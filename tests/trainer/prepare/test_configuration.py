import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.codec import encode, to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.run.optimization import Optimizer
from sftjob_trainer.preflight.run_config import DELIVERY_SECONDS, problems, read_config, read_delivered_config
from sftjob_trainer.process.errors import StageError
from support.stacks.version_skew import PREVIOUS, Previous
from support.trainer.entry import ending
from support.trainer.optimizers import ABSENT
from support.trainer.tiny import lora, run_config

GOOD = run_config(model="/model", dataset="/data.jsonl")


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good config as JSON data with one key set, or removed when `value` is None."""
    data: dict[str, Any] = encode(GOOD)
    *parents, key = path.split(".")
    place = data
    for parent in parents:
        place = place.setdefault(parent, {})
    place[key] = value
    if value is None:
        del place[key]
    return data


def of_rows(**options: Any) -> dict[str, Any]:
    """The good config with other options of its source."""
    return changed("dataset.sources", [{**encode(GOOD.dataset.sources[0]), **options}])


def test_a_config_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(encode(GOOD)))
    assert read_config(path) == GOOD


@pytest.mark.parametrize("previous", PREVIOUS, ids=lambda previous: previous.job["metadata"]["name"])
def test_the_run_config_of_the_previous_operator_is_read(tmp_path: Path, previous: Previous) -> None:
    path = tmp_path / "config.json"
    path.write_text(previous.config, encoding="utf-8")
    assert to_json(read_config(path)) == previous.config


@pytest.mark.parametrize("before", [b'{"ofAnotherVersion":1}', None], ids=["an earlier file", "no file"])
def test_the_run_config_is_read_once_the_node_has_delivered_it(tmp_path: Path, before: bytes | None) -> None:
    path, delivered = tmp_path / "config.json", to_json(GOOD).encode()
    if before is not None:
        path.write_bytes(before)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            path.write_bytes(delivered)

    assert read_delivered_config(path, hashlib.sha256(delivered).hexdigest(), sleep) == GOOD
    assert len(pauses) == 3


def test_a_run_config_that_is_never_delivered_ends_the_pod_but_not_the_job(tmp_path: Path) -> None:
    path, pauses = tmp_path / "config.json", list[float]()
    path.write_text(to_json(GOOD))
    with pytest.raises(
        StageError, match=r"is not the one that this Pod was created with.*look at the job's ConfigMap"
    ) as e:
        read_delivered_config(path, "0" * 64, pauses.append)
    assert (e.value.exit_code, sum(pauses)) == (ExitCode.RETRY, DELIVERY_SECONDS)


def test_without_a_hash_from_an_earlier_operator_any_run_config_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(to_json(GOOD))
    assert read_delivered_config(path, None) == GOOD


QUANTIZATION: Mapping[str, Any] = {"type": "nf4", "doubleQuantization": True, "computeDtype": "bfloat16"}

PROBLEMS = [
    (
        changed("training.maxSeqLength", 3),
        (
            "training.maxSeqLength is unknown; known keys: epochs, maxSteps, perDeviceBatchSize, "
            "gradientAccumulationSteps, learningRate, scheduler, warmupRatio, warmupSteps, weightDecay, maxGradNorm, "
            "optimizer, maxLength, packing, packingStrategy, lossOn, precision, gradientCheckpointing, "
            "neftuneNoiseAlpha, kernels, compile, earlyStopping, seed, loggingSteps, extra"
        ),
    ),
    (changed("training.learningRate", "fast"), "training.learningRate must be a finite number, not 'fast'"),
    (changed("training.seed", None), "training.seed is missing"),
    (changed("training.precision", "fp8"), "training.precision must be one of auto, bf16, fp16, fp32, not 'fp8'"),
    (
        changed("version", 2),
        "version is 2 but this trainer understands 1: use a trainer image and an operator of the same release",
    ),
    (changed("training.maxSteps", 3), "training must have exactly one of epochs and maxSteps"),
    (changed("training.epochs", None), "training must have exactly one of epochs and maxSteps"),
    (changed("training.epochs", -1.0), "training.epochs must be above 0, not -1.0"),
    (changed("training.maxLength", 0), "training.maxLength must be above 0, not 0"),
    (changed("training.learningRate", 0), "training.learningRate must be above 0, not 0.0"),
    (changed("training.warmupSteps", 3), "training must have at most one of warmupRatio and warmupSteps"),
    (
        changed("dataset.evaluation.source", "/x"),
        "dataset.evaluation must have exactly one of fraction, split and source",
    ),
    (
        changed("dataset.evaluation.fraction", 1),
        "dataset.evaluation.fraction must be at least 0 and below 1, not 1.0",
    ),
    (
        changed("dataset.sources", [{**encode(GOOD.dataset.sources[0]), "maxSamples": 0}]),
        "dataset.maxSamples must be at least 1, not 0",
    ),
    (
        changed("dataset.sources", [{**encode(GOOD.dataset.sources[0]), "weight": 0}]),
        "dataset.sources.weight must be above 0, not 0",
    ),
    (
        changed("dataset.sources", [{**encode(GOOD.dataset.sources[0]), "subset": "en"}]),
        "dataset.subset: en is of a dataset on the hub or of a folder; /data.jsonl is a file",
    ),
    (
        changed("dataset.sources", [{**encode(GOOD.dataset.sources[0]), "split": "test"}]),
        "dataset.split: test is of a dataset on the hub or of a folder; /data.jsonl is a file",
    ),
    (
        changed("dataset.evaluation", {"fraction": None, "split": "test", "source": None}),
        "dataset.evaluation.split: test is of a dataset on the hub or of a folder; /data.jsonl is a file",
    ),
    (
        changed("dataset", {**encode(GOOD.dataset), "minTokens": 9, "maxTokens": 8}),
        "dataset.minTokens 9 must not be above dataset.maxTokens 8",
    ),
    (of_rows(preprocessing={}), "dataset.preprocessing must have exactly one of template and function"),
    (
        of_rows(preprocessing={"template": {"text": "a", "completion": "b"}}),
        "dataset.preprocessing.template must have either text, or both prompt and completion",
    ),
    (
        of_rows(preprocessing={"template": {"prompt": "a", "completion": "{{ a }}\n{% if b"}}),
        (
            "dataset.preprocessing.template.completion: line 2: unexpected end of template, "
            "expected 'end of statement block'."
        ),
    ),
    (
        of_rows(preprocessing={"template": {"text": "{{ a | shout }}"}}),
        "dataset.preprocessing.template.text: line 1: No filter named 'shout'.",
    ),
    (
        of_rows(preprocessing={"template": {"text": "{{ a }}"}}, format="messages"),
        "dataset.preprocessing.template makes rows of format text, not messages: remove dataset.format",
    ),
    (
        of_rows(preprocessing={"function": {"file": "/rows.py", "name": "preprocess"}}),
        (
            "dataset.preprocessing.function runs Python code: read it, then set model.trustRemoteCode: true, or write "
            "preprocessing.template"
        ),
    ),
    (
        of_rows(validation={"command": [], "timeoutSeconds": 10}),
        "dataset.validation must have at least one of regex, syntax and command",
    ),
    (
        of_rows(validation={"command": ["true"], "timeoutSeconds": 0}),
        "dataset.validation.timeoutSeconds must be at least 1, not 0",
    ),
    (
        of_rows(validation={"regex": "[a-", "command": [], "timeoutSeconds": 10}),
        "dataset.validation.regex: [a- is not a valid regular expression: unterminated character set at position 0",
    ),
    (changed("gpus", -1), "gpus must be at least 0, not -1"),
    (changed("checkpoints.keep", 0), "checkpoints.keep must be at least 1, not 0"),
    (changed("checkpoints.everySteps", 3), "checkpoints must have exactly one of everySteps and perEpoch"),
    (changed("checkpoints.perEpoch", 0), "checkpoints.perEpoch must be at least 1, not 0"),
    (
        changed("method.quantization", {**QUANTIZATION, "bits": 4}),
        "method.quantization needs method.lora: quantized weights themselves cannot be trained",
    ),
    (
        changed(
            "method",
            {
                "quantization": {**QUANTIZATION, "bits": 5},
                "lora": encode(lora().lora),
            },
        ),
        "method.quantization.bits must be 4 or 8, not 5",
    ),
]


@pytest.mark.parametrize(("data", "sentence"), PROBLEMS)
def test_a_config_that_can_not_be_run_is_refused(tmp_path: Path, data: Any, sentence: str) -> None:
    ended = ending(Stage.PREPARE, tmp_path, json.dumps(data))
    assert (ended.exit_code, ended.reason) == (ExitCode.INVALID, Reason.CONFIG_INVALID)
    assert ended.message == f"run config: {sentence}"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    data = changed("training", {**encode(GOOD.training), "epochs": -1.0, "maxLength": 0})
    path.write_text(json.dumps({**data, "gpus": -1}))
    with pytest.raises(StageError) as raised:
        read_config(path)
    assert raised.value.message == (
        "run config: gpus must be at least 0, not -1; training.epochs must be above 0, not -1.0; "
        "training.maxLength must be above 0, not 0"
    )


@pytest.mark.parametrize(("count", "end"), [(8, "weight must be above 0, not -8"), (9, "; and 1 more")])
def test_of_many_problems_eight_are_told(tmp_path: Path, count: int, end: str) -> None:
    path = tmp_path / "config.json"
    source = encode(GOOD.dataset.sources[0])
    parts = [{**source, "weight": -number} for number in range(1, count + 1)]
    path.write_text(json.dumps(changed("dataset.sources", parts)))
    with pytest.raises(StageError) as raised:
        read_config(path)
    assert raised.value.message.count("dataset.sources.weight must be above 0, not ") == 8
    assert raised.value.message.endswith(end)


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(StageError, match=r"the run config .*config\.json cannot be read: No such file or directory"):
        read_config(path)
    path.write_bytes(b"\xff{")
    with pytest.raises(StageError, match=r"run config: not valid JSON: "):
        read_config(path)


@pytest.mark.parametrize("optimizer", ABSENT)
def test_an_optimizer_whose_package_the_image_lacks_is_refused_by_name(optimizer: Optimizer) -> None:
    found = list(problems(run_config(model="/m", dataset="/d", optimizer=optimizer)))

    what = f"training.optimizer: {optimizer}"
    needed = f"needs the package {optimizer.package} in the trainer's image"
    assert found == [f"{what} {needed}: install it there, or remove {what}"]


def test_every_optimizer_of_transformers_is_known() -> None:
    from transformers.training_args import OptimizerNames

    assert {one.value for one in Optimizer} == {one.value for one in OptimizerNames}
    assert len(ABSENT) < len(Optimizer) / 2

"""Read and check the run config before any heavy import, so that a mistake is reported within a second."""

import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sftjob_contract.codec import ContractError, from_json
from sftjob_contract.layout import may_have_splits
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import RUN_CONFIG_VERSION, Dataset, DataSource, RunConfig, Training
from sftjob_contract.run.method import Method
from sftjob_trainer.models.added_tokens import token_problems
from sftjob_trainer.models.rope import rope_problems
from sftjob_trainer.models.unfreezing import pattern_problems
from sftjob_trainer.preflight.extra_options import extra_problems
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.image import package_problems
from sftjob_trainer.rows.preprocessing import has_function, preprocessing_problems

_MAX_PROBLEMS: Final = 8
"""Problems of a run config that are reported, one sentence each; a status has no room for hundreds."""
DELIVERY_SECONDS: Final = 120
"""How long a ConfigMap change may take to reach a mounted file: the kubelet's sync period (1 min) and its cache."""

logger = logging.getLogger(__name__)


def read_delivered_config(
    path: Path, config_hash: str | None, sleep: Callable[[float], None] = time.sleep
) -> RunConfig:
    """The run config in the file `path`, once its SHA-256 is `config_hash`; None accepts any content.

    A node may mount the ConfigMap as it was before the operator updated it for this Pod. That file belongs to another
    version and is not read.

    Raises:
        StageError: as for read_config, or the file did not arrive within DELIVERY_SECONDS.
    """
    if config_hash is None:
        return read_config(path)
    for waited in range(DELIVERY_SECONDS):
        if _sha256(path) == config_hash:
            return read_config(path)
        if waited == 0:
            logger.info("waiting for the run config of this Pod: %s still has an earlier one", path)
        sleep(1)
    raise StageError(
        Reason.INTERRUPTED,
        f"the run config {path} is not the one that this Pod was created with, and the node has not updated it for "
        f"{DELIVERY_SECONDS} s (SHA-256 {_sha256(path)}, expected {config_hash}): another Pod is created; if it stays, "
        "look at the job's ConfigMap and at the kubelet of the node",
    )


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def read_config(path: Path) -> RunConfig:
    """The run config in the file `path`.

    Raises:
        StageError: the file cannot be read or parsed, has an unknown key, or requests something impossible.
    """
    try:
        config = from_json(RunConfig, path.read_bytes(), ignore_unknown=False)
    except OSError as error:
        raise StageError(
            Reason.CONFIG_INVALID, f"the run config {path} cannot be read: {error.strerror or error}"
        ) from error
    except ContractError as error:
        raise StageError(Reason.CONFIG_INVALID, f"run config: {error}") from error
    if found := list(problems(config)):
        raise StageError(Reason.CONFIG_INVALID, f"run config: {_join_problems(found)}")
    return config


def with_files(config: RunConfig, directory: Path | None) -> RunConfig:
    """`config` with every user-supplied file replaced by its path below `directory`."""
    if directory is None:
        return config
    template, model, data = config.model.chat_template, config.model, config.dataset
    if template is not None and template.file is not None:
        model = replace(model, chat_template=replace(template, file=str(directory / template.file)))
    sources = tuple(_with_file(source, directory) for source in data.sources)
    return replace(config, model=model, dataset=replace(data, sources=sources))


def _with_file(source: DataSource, directory: Path) -> DataSource:
    wanted = source.preprocessing
    if wanted is None or wanted.function is None:
        return source
    function = replace(wanted.function, file=str(directory / wanted.function.file))
    return replace(source, preprocessing=replace(wanted, function=function))


def problems(config: RunConfig) -> Iterator[str]:
    """Contradictory or impossible settings, one sentence each.

    The resource already bounds single values. Those that would fail late, or train on nothing, are bounded here too: a
    run config may come from another release of the operator.
    """
    if config.version != RUN_CONFIG_VERSION:
        yield (
            f"version is {config.version} but this trainer understands {RUN_CONFIG_VERSION}: "
            "use a trainer image and an operator of the same release"
        )
    yield from _dataset_problems(config.dataset)
    if not config.model.trust_remote_code and any(map(has_function, config.dataset.sources)):
        yield (
            "dataset.preprocessing.function runs Python code: read it, then set model.trustRemoteCode: true, or write "
            "preprocessing.template"
        )
    if config.gpus < 0:
        yield f"gpus must be at least 0, not {config.gpus}"
    yield from rope_problems(config.model.rope_scaling)
    yield from token_problems(config.model)
    yield from _interval_problems(config)
    yield from _training_problems(config.training)
    yield from _method_problems(config.method)
    yield from _held_out_data_problems(config)
    yield from package_problems(config)
    yield from extra_problems(config)


def _join_problems(found: Sequence[str]) -> str:
    """All of `found`, to be fixed together; beyond a limit, only how many more there are."""
    more = (f"and {len(found) - _MAX_PROBLEMS} more",) if len(found) > _MAX_PROBLEMS else ()
    return "; ".join((*found[:_MAX_PROBLEMS], *more))


def _dataset_problems(dataset: Dataset) -> Iterator[str]:
    held_out = dataset.evaluation
    if [held_out.fraction, held_out.split, held_out.source].count(None) != 2:
        yield "dataset.evaluation must have exactly one of fraction, split and source"
    if held_out.fraction is not None and not 0 <= held_out.fraction < 1:
        yield f"dataset.evaluation.fraction must be at least 0 and below 1, not {held_out.fraction}"
    if not dataset.sources:
        yield "dataset.sources must have at least one source"
    for part in dataset.sources:
        if part.max_samples is not None and part.max_samples < 1:
            yield f"dataset.maxSamples must be at least 1, not {part.max_samples}"
        if part.weight <= 0:
            yield f"dataset.sources.weight must be above 0, not {part.weight:g}"
        for name, value in (("subset", part.subset), ("split", part.split), ("evaluation.split", held_out.split)):
            if value is not None and not may_have_splits(part.source):
                yield f"dataset.{name}: {value} is of a dataset on the hub or of a folder; {part.source} is a file"
        yield from _row_problems(part)
    if (dataset.min_tokens or 0) > (dataset.max_tokens or math.inf):
        yield f"dataset.minTokens {dataset.min_tokens} must not be above dataset.maxTokens {dataset.max_tokens}"


def _row_problems(part: DataSource) -> Iterator[str]:
    if part.preprocessing is not None:
        yield from preprocessing_problems(part.preprocessing, part.format)
    validation = part.validation
    if validation is None:
        return
    if validation.regex is None and validation.syntax is None and not validation.command:
        yield "dataset.validation must have at least one of regex, syntax and command"
    if validation.timeout_seconds < 1:
        yield f"dataset.validation.timeoutSeconds must be at least 1, not {validation.timeout_seconds}"
    try:
        re.compile(validation.regex or "")
    except (re.error, RecursionError) as error:
        yield f"dataset.validation.regex: {validation.regex} is not a valid regular expression: {error}"


def _held_out_data_problems(config: RunConfig) -> Iterator[str]:
    """Settings that require held-out data in a run without any."""
    if config.dataset.evaluation.fraction != 0:
        return
    evaluation = config.evaluation
    for name, requested in (
        ("training.earlyStopping", config.training.early_stopping is not None),
        ("evaluation.metrics", bool(evaluation.metrics)),
        ("evaluation.savePredictions", evaluation.save_predictions),
    ):
        if requested:
            yield f"{name} needs held-out data: set dataset.evaluation, or remove {name}"


def _interval_problems(config: RunConfig) -> Iterator[str]:
    for section, given in (("evaluation", config.evaluation), ("checkpoints", config.checkpoints)):
        if (given.every_steps is None) == (given.per_epoch is None):
            yield f"{section} must have exactly one of everySteps and perEpoch"
    for name, value in (
        ("evaluation.everySteps", config.evaluation.every_steps),
        ("evaluation.perEpoch", config.evaluation.per_epoch),
        ("checkpoints.everySteps", config.checkpoints.every_steps),
        ("checkpoints.perEpoch", config.checkpoints.per_epoch),
        ("checkpoints.keep", config.checkpoints.keep),
    ):
        if value is not None and value < 1:
            yield f"{name} must be at least 1, not {value}"


def _training_problems(training: Training) -> Iterator[str]:
    if (training.epochs is None) == (training.max_steps is None):
        yield "training must have exactly one of epochs and maxSteps"
    if training.warmup_ratio is not None and training.warmup_steps is not None:
        yield "training must have at most one of warmupRatio and warmupSteps"
    positive = {
        "epochs": training.epochs,
        "maxSteps": training.max_steps,
        "perDeviceBatchSize": training.per_device_batch_size,
        "gradientAccumulationSteps": training.gradient_accumulation_steps,
        "learningRate": training.learning_rate,
        "maxLength": training.max_length,
        "loggingSteps": training.logging_steps,
    }
    for name, value in positive.items():
        if value is not None and value <= 0:
            yield f"training.{name} must be above 0, not {value}"


def _method_problems(method: Method) -> Iterator[str]:
    yield from pattern_problems(method.unfrozen_parameters or ())
    if method.unfrozen_parameters is not None and method.lora is not None:
        yield "method must have at most one of lora and unfrozenParameters, which is for full fine-tuning"
    if method.quantization is None:
        return
    if method.lora is None:
        yield "method.quantization needs method.lora: quantized weights themselves cannot be trained"
    if method.quantization.bits not in (4, 8):
        yield f"method.quantization.bits must be 4 or 8, not {method.quantization.bits}"

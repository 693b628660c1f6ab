"""The run config, read and checked before anything heavy is imported, so that a mistake is told within a second."""

from collections.abc import Iterator
from pathlib import Path

from sftjob_contract.codec import ContractError, from_json
from sftjob_contract.config import RUN_CONFIG_VERSION, Method, RunConfig, Training
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.unsupported import unsupported


def read_config(path: Path) -> RunConfig:
    """The run config in the file `path`.

    Raises:
        Failure: the file can not be read or parsed, has an unknown key, or asks for something impossible.
    """
    try:
        config = from_json(RunConfig, path.read_bytes(), ignore_unknown=False)
    except OSError as error:
        raise Failure(
            Reason.CONFIG_INVALID, f"the run config {path} can not be read: {error.strerror or error}"
        ) from error
    except ContractError as error:
        raise Failure(Reason.CONFIG_INVALID, f"run config: {error}") from error
    if problem := next(problems(config), None):
        raise Failure(Reason.CONFIG_INVALID, f"run config: {problem}")
    return config


def problems(config: RunConfig) -> Iterator[str]:
    """What contradicts itself or can not be done, one sentence each. Single values are bounded by the resource."""
    if config.version != RUN_CONFIG_VERSION:
        yield (
            f"version is {config.version} but this trainer understands {RUN_CONFIG_VERSION}: "
            "use a trainer image and an operator of the same release"
        )
    held_out = config.dataset.evaluation
    if [held_out.fraction, held_out.split, held_out.source].count(None) != 2:
        yield "dataset.evaluation must have exactly one of fraction, split and source"
    if held_out.fraction is not None and not 0 <= held_out.fraction < 1:
        yield f"dataset.evaluation.fraction must be at least 0 and below 1, not {held_out.fraction}"
    if not config.dataset.sources:
        yield "dataset.sources must have at least one source"
    for part in config.dataset.sources:
        if part.max_samples is not None and part.max_samples < 1:
            yield f"dataset.maxSamples must be at least 1, not {part.max_samples}"
    if config.gpus < 0:
        yield f"gpus must be at least 0, not {config.gpus}"
    yield from _interval_problems(config)
    yield from _training_problems(config.training)
    yield from _method_problems(config.method)
    yield from unsupported(config)


def data_sources(config: RunConfig) -> Iterator[str]:
    """Everything that data is read from."""
    yield from (part.source for part in config.dataset.sources)
    if config.dataset.evaluation.source is not None:
        yield config.dataset.evaluation.source


def all_sources(config: RunConfig) -> Iterator[str]:
    """Everything that Prepare reads from."""
    yield config.model.source
    yield from data_sources(config)


def devices(config: RunConfig) -> int:
    """Processes that train: one for each GPU of each node, or one on the CPU."""
    return max(1, config.gpus) * config.nodes


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
    if method.quantization is None:
        return
    if method.lora is None:
        yield "method.quantization needs method.lora: quantized weights themselves can not be trained"
    if method.quantization.bits not in (4, 8):
        yield f"method.quantization.bits must be 4 or 8, not {method.quantization.bits}"

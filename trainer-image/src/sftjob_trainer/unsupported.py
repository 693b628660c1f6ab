"""Options of the resource that this trainer does not have yet. They are refused by name, never ignored."""

from collections.abc import Iterator
from typing import Final

from sftjob_contract import config as run
from sftjob_contract.destinations import Retain
from sftjob_contract.layout import HUB_SCHEME, PVC_SCHEME

_Asked = tuple[str, object | None, str]
"""A field, what it asks for that is not there (None: nothing; empty: the whole field), and what to write instead."""

_FORMATS: Final = frozenset(run.DataFormat) - {run.DataFormat.ALPACA, run.DataFormat.SHAREGPT}
_SCHEDULERS: Final = frozenset(
    {run.Scheduler.LINEAR, run.Scheduler.COSINE, run.Scheduler.CONSTANT, run.Scheduler.CONSTANT_WITH_WARMUP}
)
_OPTIMIZERS: Final = frozenset(
    {
        run.Optimizer.ADAMW_TORCH,
        run.Optimizer.ADAMW_TORCH_FUSED,
        run.Optimizer.ADAMW_8BIT,
        run.Optimizer.PAGED_ADAMW_8BIT,
    }
)
_PRECISIONS: Final = frozenset(run.Precision) - {run.Precision.FP16}
_KERNELS: Final = frozenset(run.Kernels) - {run.Kernels.LIGER}


def unsupported(config: run.RunConfig) -> Iterator[str]:
    """One sentence for each option that is asked for and not there."""
    asked = (
        *_of_model(config.model),
        *_of_dataset(config.dataset),
        *_of_method(config.method),
        *_of_training(config.training),
        *_of_results(config),
        ("resources.gpus", config.gpus if config.gpus > 1 else None, "write 1"),
        ("resources.nodes", config.nodes if config.nodes > 1 else None, "write 1"),
    )
    for name, value, instead in asked:
        if value is not None:
            shown = f"{name}: {value}" if value != "" else name
            yield f"{shown} is not supported by this trainer: {instead}"


def _unless(value: object, usual: object) -> object | None:
    return None if value == usual else value


def _beyond(value: object, known: frozenset[object]) -> object | None:
    return None if value in known else value


def _of_model(model: run.Model) -> Iterator[_Asked]:
    yield "model.source", _scheme(model.source), "copy the model to a claim and write pvc://CLAIM/PATH"
    yield "model.dtype", _unless(model.dtype, run.ModelDtype.AUTO), "write auto"
    yield "model.attention", _unless(model.attention, run.Attention.AUTO), "write auto"
    yield "model.chatTemplate", _given(model.chat_template), "remove it to use the model's own"
    yield "model.addEosToken", "false" if not model.add_eos_token else None, "write true"
    yield "model.paddingSide", _unless(model.padding_side, run.PaddingSide.RIGHT), "write right"


def _of_dataset(dataset: run.Dataset) -> Iterator[_Asked]:
    yield "dataset.sources", "" if len(dataset.sources) > 1 else None, "write source for one, or join the files"
    for part in dataset.sources:
        yield "dataset.source", _scheme(part.source), "copy the data to a claim and write pvc://CLAIM/PATH"
        yield "dataset.subset", part.subset, "name the file or folder in dataset.source"
        yield "dataset.split", part.split, "name the file or folder in dataset.source"
        yield "dataset.format", _beyond(part.format, _FORMATS), "convert the rows to prompt-completion or messages"
        yield "dataset.sources.weight", _unless(part.weight, 1.0), "write 1"
    yield "dataset.deduplicate", "true" if dataset.deduplicate else None, "write false"
    yield "dataset.minTokens", dataset.min_tokens, "remove it"
    yield "dataset.maxTokens", dataset.max_tokens, "remove it"
    yield "dataset.onInvalidRow", _unless(dataset.on_invalid_row, run.OnInvalidRow.FAIL), "write Fail"
    held_out = dataset.evaluation
    yield "dataset.evaluation.split", held_out.split, "write fraction or source"
    yield (
        "dataset.evaluation.source",
        _scheme(held_out.source or ""),
        "copy the data to a claim and write pvc://CLAIM/PATH",
    )


def _of_method(method: run.Method) -> Iterator[_Asked]:
    if (lora := method.lora) is not None:
        yield "method.lora.bias", _unless(lora.bias, run.LoraBias.NONE), "write none"
        yield "method.lora.rslora", "true" if lora.rslora else None, "write false"
        yield "method.lora.dora", "true" if lora.dora else None, "write false"
        yield "method.lora.modulesToSave", ", ".join(lora.modules_to_save) or None, "remove it"
        yield "method.lora.extra", ", ".join(lora.extra) or None, "remove it"
    yield "method.distillation", _given(method.distillation), "remove it"


def _of_training(training: run.Training) -> Iterator[_Asked]:
    yield "training.scheduler", _beyond(training.scheduler, _SCHEDULERS), "write cosine or linear"
    yield "training.optimizer", _beyond(training.optimizer, _OPTIMIZERS), "write adamw_torch or paged_adamw_8bit"
    yield "training.packingStrategy", _unless(training.packing_strategy, run.PackingStrategy.BFD), "write bfd"
    yield "training.lossOn", training.loss_on, "remove it to train on what suits the rows"
    yield "training.precision", _beyond(training.precision, _PRECISIONS), "write bf16 or auto"
    yield "training.neftuneNoiseAlpha", training.neftune_noise_alpha, "remove it"
    yield "training.kernels", _beyond(training.kernels, _KERNELS), "write auto"
    yield "training.compile", "true" if training.compile else None, "write false"
    yield "training.earlyStopping", _given(training.early_stopping), "remove it"
    yield "training.extra", ", ".join(training.extra) or None, "remove it"


def _of_results(config: run.RunConfig) -> Iterator[_Asked]:
    evaluation, checkpoints, output, tracking = config.evaluation, config.checkpoints, config.output, config.tracking
    yield "evaluation.metrics", ", ".join(evaluation.metrics) or None, "remove them"
    yield "evaluation.savePredictions", "true" if evaluation.save_predictions else None, "write false"
    yield "evaluation.samplePrompts", "" if evaluation.sample_prompts else None, "remove them"
    yield "checkpoints.onTermination", "false" if not checkpoints.on_termination else None, "write true"
    yield "checkpoints.resumeFrom", checkpoints.resume_from, "remove it"
    yield "output.mergeAdapter", "true" if output.merge_adapter else None, "write false"
    yield "output.hub", _given(output.hub), "remove it"
    yield "output.upload", _given(output.upload_uri), "remove it"
    yield "output.retain", _unless(output.retain, Retain.ALL), "write All"
    yield "tracking.tensorboard", "true" if tracking.tensorboard else None, "write false"
    yield "tracking.wandb", _given(tracking.wandb), "remove it"
    yield "tracking.mlflow", _given(tracking.mlflow), "remove it"


def _given(value: object | None) -> str | None:
    return None if value is None else ""


def _scheme(source: str) -> str | None:
    foreign = "://" in source and not source.startswith((HUB_SCHEME, PVC_SCHEME))
    return source if foreign else None

"""Build the trainer of a run without weights, on PyTorch's `meta` device, to find the options that are refused.

Run as a program, this module reads a run config and prints the result as JSON.
"""

import json
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract.codec import from_json
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import STATS_VERSION, PreparedStats
from sftjob_contract.run.config import Kernels, Precision, RunConfig
from sftjob_contract.run.method import Lora, LoraBias, uses_loftq
from sftjob_contract.run.optimization import Optimizer, Scheduler
from sftjob_trainer.distributed.world import SINGLE_PROCESS, World
from sftjob_trainer.models.added_tokens import resize_embedding, rows_for
from sftjob_trainer.models.hardware import Choices, best_machine, choose
from sftjob_trainer.models.lora import ALL_LINEAR
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.libraries import hide_bitsandbytes, hide_torchao, hide_wandb
from sftjob_trainer.process.subprocess_check import limit_memory, print_result

_GPU_ONLY: Final = ("tf32",)
"""Options of training.extra that only work on a GPU."""
_STEPS: Final = 1000
"""Number of steps for a run whose data is not tokenized yet."""
_MAX_MESSAGE_CHARACTERS: Final = 400
_COMPUTING: Final = re.compile(r"/(bitsandbytes|torch)/(?!optim/|utils/(data/|checkpoint))")
"""Files whose errors are about tensors without values, not about options."""
_NO_VALUES: Final = re.compile(r"\bmeta\b")


class UndeterminedError(Exception):
    """The result cannot be determined without weights."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A configured field, its value, and the run config `config_without` it."""

    field: str
    value: Any
    config_without: RunConfig

    def __str__(self) -> str:
        return f"{self.field}: {json.dumps(self.value, default=str)}"


@dataclass(frozen=True)
class _NoRun:
    """The hooks of a trainer that never trains."""

    world: World = SINGLE_PROCESS

    def agree_to_stop(self) -> bool:
        return False

    def fetching(self) -> AbstractContextManager[None]:
        return nullcontext()


def find_refusal(config: RunConfig, directory: Path) -> str | None:
    """The message about what the libraries refuse; None if they accept everything.

    An option is the cause if the trainer can be built without it.

    Raises:
        UnknownError: the trainer cannot be built, and not because of the options.
    """
    error = _error(config, directory)
    if error is None:
        return None
    if isinstance(error, StageError) and error.__cause__ is None:
        return error.message
    cause = error.__cause__ if isinstance(error, StageError) and error.__cause__ is not None else error
    message = (str(cause).strip() or type(cause).__name__)[:_MAX_MESSAGE_CHARACTERS]
    for option in options(config):
        if _error(option.config_without, directory) is None:
            return f"{option}: {_library(cause)} refuses it: {message}"
    together = ", ".join(map(str, _needed_together(config, directory)))
    return f"{together}: {_library(cause)} refuses them together: {message}"


def _needed_together(config: RunConfig, directory: Path) -> list[Option]:
    """Options without which the trainer can be built, if removing a single one is not enough.

    Raises:
        UnknownError: it cannot be built without any of them.
    """
    removed: list[Option] = []
    while (error := _error(config, directory)) is not None:
        if (option := next(options(config), None)) is None:
            raise UndeterminedError(f"{type(error).__name__}: {error}")
        removed.append(option)
        config = option.config_without
    return removed


def options(config: RunConfig) -> Iterator[Option]:
    """Options that can be removed from `config`, the most specific first."""
    training, lora = config.training, config.method.lora
    for name, value in training.extra.items():
        yield _training_option(config, f"extra.{name}", value, extra=_without_key(training.extra, name))
    if lora is not None:
        yield from _lora_options(config, lora)
    if training.scheduler is not Scheduler.LINEAR:
        yield _training_option(config, "scheduler", training.scheduler, scheduler=Scheduler.LINEAR)
    if training.optimizer is not Optimizer.ADAMW_TORCH:
        yield _training_option(config, "optimizer", training.optimizer, optimizer=Optimizer.ADAMW_TORCH)
    if training.neftune_noise_alpha is not None:
        yield _training_option(config, "neftuneNoiseAlpha", training.neftune_noise_alpha, neftune_noise_alpha=None)
    if training.packing:
        yield _training_option(config, "packing", True, packing=False)
    if training.gradient_checkpointing:
        yield _training_option(config, "gradientCheckpointing", True, gradient_checkpointing=False)


def _lora_options(config: RunConfig, lora: Lora) -> Iterator[Option]:
    for name, value in lora.extra.items():
        yield _lora_option(config, f"extra.{name}", value, extra=_without_key(lora.extra, name))
    if lora.modules_to_save:
        yield _lora_option(config, "modulesToSave", lora.modules_to_save, modules_to_save=())
    if lora.loraplus_lr_ratio is not None:
        yield _lora_option(config, "loraplusLrRatio", lora.loraplus_lr_ratio, loraplus_lr_ratio=None)
    if lora.dora:
        yield _lora_option(config, "dora", True, dora=False)
    if lora.bias is not LoraBias.NONE:
        yield _lora_option(config, "bias", lora.bias, bias=LoraBias.NONE)
    if lora.target_modules != (ALL_LINEAR,):
        yield _lora_option(config, "targetModules", lora.target_modules, target_modules=(ALL_LINEAR,))


def _training_option(config: RunConfig, field: str, value: Any, **defaults: Any) -> Option:
    config_without = replace(config, training=replace(config.training, **defaults))
    return Option(field=f"training.{field}", value=value, config_without=config_without)


def _lora_option(config: RunConfig, field: str, value: Any, **defaults: Any) -> Option:
    lora = config.method.lora
    if lora is None:
        raise ValueError("there is no option of LoRA without method.lora")
    config_without = replace(config, method=replace(config.method, lora=replace(lora, **defaults)))
    return Option(field=f"method.lora.{field}", value=value, config_without=config_without)


def _without_key(options_left: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {other: value for other, value in options_left.items() if other != name}


def _error(config: RunConfig, directory: Path) -> Exception | None:
    """The error of building the trainer: with quantized weights or, if that needs their values, with unquantized ones.

    Raises:
        UnknownError: the error is unrelated to options.
    """
    quantized = config.method.quantization is not None
    for attempt in (True, False) if quantized else (False,):
        try:
            with warnings.catch_warnings(action="ignore"):  # Train logs them too
                construct_without_weights(config, directory, quantized=attempt)
        except Exception as error:
            if not _needs_values(error):
                return error
            if not attempt:
                raise UndeterminedError(f"{type(error).__name__}: {error}") from error
        else:
            return None
    return None


def _needs_values(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, StageError) else error
    if cause is None:
        return False
    if isinstance(cause, NotImplementedError | MemoryError) or _NO_VALUES.search(str(cause)):
        return True
    innermost = traceback.extract_tb(cause.__traceback__)[-1].filename
    return isinstance(cause, RuntimeError | ValueError | AttributeError) and bool(_COMPUTING.search(innermost))


def _library(error: BaseException) -> str:
    """Display name of the library that raised an error."""
    names = {
        "peft": "PEFT",
        "trl": "TRL",
        "transformers": "transformers",
        "accelerate": "accelerate",
        "torch": "PyTorch",
    }
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = Path(frame.filename).parts
        if found := next((name for package, name in names.items() if package in parts), None):
            return found
    return "the library"


def construct_without_weights(config: RunConfig, directory: Path, *, quantized: bool) -> Any:
    """Build the trainer of `config` as a machine without a GPU would.

    Raises:
        UnknownError: no model can be built from the config in `directory`.
        StageError: the model does not support its RoPE scaling, or a library refuses an option.
    """
    import torch
    from datasets import Dataset

    from sftjob_trainer.tokens.tokenizer import load_tokenizer, new_tokens
    from sftjob_trainer.training.construction import TrainerInputs, construct, try_optimizer
    from sftjob_trainer.training.loftq import check_names

    choices = _cpu_choices(config)
    tried = _cpu_config(config)
    try:
        model = _model(tried, directory, choices, quantized=quantized)
        tokenizer = load_tokenizer(directory, config.model)
        new_ids = new_tokens(directory, config.model).values()
        with torch.device("meta"):
            resize_embedding(model, rows_for(new_ids), config.training.seed)
    except StageError:
        raise
    except Exception as error:
        raise UndeterminedError(f"no model can be made without weights: {error}") from error
    with tempfile.TemporaryDirectory() as output:
        inputs = TrainerInputs(
            config=tried,
            stats=_stats(config),
            choices=choices,
            model=model,
            tokenizer=tokenizer,
            train=Dataset.from_dict({"input_ids": [[0, 1]], "labels": [[0, 1]]}),
            output_dir=Path(output),
            new_tokens=new_ids,
            hooks=_NoRun(),
        )
        with torch.device("meta"):  # also for PEFT's new weights
            trainer = construct(inputs)
        if uses_loftq(config.method.lora):
            check_names(trainer.model, directory)
        try_optimizer(trainer, inputs)
    _prepare_training(trainer)
    return trainer


def _prepare_training(trainer: Any) -> None:
    """Create what the Trainer creates when training begins, and checkpoint a function with the layers' options."""
    import torch
    from torch.utils.checkpoint import checkpoint

    trainer.get_train_dataloader()
    if not trainer.args.activation_checkpointing:
        return
    options_left = dict(trainer.args.activation_checkpointing_kwargs or {})
    locations = {name: options_left.pop(name) for name in ("every_n_layers", "offload") if name in options_left}
    trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options_left or None, **locations)
    checkpoint(layer, torch.ones(1, requires_grad=True), **{"use_reentrant": False, **options_left})


def layer(hidden: Any) -> Any:
    """Stands for a model layer; PyTorch shows this name for an unknown option."""
    return hidden * 2


def _cpu_choices(config: RunConfig) -> Choices:
    """The choices of a suitable machine for `config`, without what only a GPU has: fp16 and kernels."""
    found = choose(config, best_machine(config))
    is_half = found.precision is not Precision.FP32
    return replace(found, precision=Precision.BF16 if is_half else Precision.FP32, attention=None, liger=False)


def _cpu_config(config: RunConfig) -> RunConfig:
    extra = {name: value for name, value in config.training.extra.items() if name not in _GPU_ONLY}
    training = replace(config.training, extra=extra, kernels=Kernels.NONE, compile=False)
    return replace(config, training=training, gpus=0, nodes=1)


def _model(config: RunConfig, directory: Path, choices: Choices, *, quantized: bool) -> Any:
    from sftjob_trainer.models.load import quantization_config
    from sftjob_trainer.models.rope import check_scaled, model_config, scale

    settings, scaling = model_config(directory, config.model), config.model.rope_scaling
    if getattr(settings, "quantization_config", None) is not None:
        del settings.quantization_config
    if scaling is None:
        model = _on_meta(settings, config, choices)
    else:
        scale(settings, scaling, model_config(directory, config.model))
        model = _scaled_on_meta(settings, directory, config, choices)
        check_scaled(model, scaling)
    if quantized and config.method.quantization is not None:
        from transformers.integrations.bitsandbytes import replace_with_bnb_linear

        wanted = quantization_config(config.method.quantization, choices.precision)
        head = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
        model = replace_with_bnb_linear(model, modules_to_not_convert=head, quantization_config=wanted)
    model.hf_device_map = {"": "meta"}  # the Trainer does not move such a model
    return model


def _on_meta(settings: Any, config: RunConfig, choices: Choices) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            settings, dtype=getattr(torch, choices.dtype.value), trust_remote_code=config.model.trust_remote_code
        )


def _scaled_on_meta(settings: Any, directory: Path, config: RunConfig, choices: Choices) -> Any:
    """A model with scaled `settings`.

    Raises:
        StageError: it cannot be built, but can without the scaling.
    """
    from sftjob_trainer.models.rope import FIELD, model_config

    try:
        return _on_meta(settings, config, choices)
    except Exception as error:  # noqa: BLE001 -- code that does not know the type may raise anything
        _on_meta(model_config(directory, config.model), config, choices)
        message = (
            f"transformers cannot scale the RoPE of {settings.model_type} so: {str(error)[:_MAX_MESSAGE_CHARACTERS]}"
        )
        raise StageError(Reason.CONFIG_INVALID, f"{FIELD}: {message}; write another type, or remove it") from None


def _stats(config: RunConfig) -> PreparedStats:
    """Statistics of data that was not read; only the number of steps is used."""
    return PreparedStats(
        version=STATS_VERSION,
        format=config.dataset.sources[0].format,
        rows=1,
        train_rows=1,
        evaluation_rows=0,
        truncated_rows=0,
        sequences=1,
        evaluation_sequences=0,
        tokens=2,
        trained_tokens=2,
        steps_per_epoch=1,
        max_steps=config.training.max_steps or _STEPS,
        dataset_fingerprint="",
    )


def main() -> None:
    """Read a run config from standard input, and print the libraries' verdict on it."""
    limit_memory()
    directory = Path(sys.argv[1])
    config = from_json(RunConfig, sys.stdin.buffer.read(), ignore_unknown=False)
    hide_wandb(config, is_leader=False)
    hide_bitsandbytes(config, [directory])
    hide_torchao(config, [directory])
    try:
        print_result({"refused": find_refusal(config, directory), "unknown": None})
    except UndeterminedError as error:
        print_result({"refused": None, "unknown": str(error)[:_MAX_MESSAGE_CHARACTERS]})


if __name__ == "__main__":
    main()

"""The trainer of a run made of a model without weights, on PyTorch's `meta` device, and which option is refused.

Run as a program, this reads a run config and prints what was found, as JSON.
"""

import json
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract.codec import from_json
from sftjob_contract.config import Kernels, Precision, RunConfig
from sftjob_contract.method import Lora, LoraBias, uses_loftq
from sftjob_contract.optimization import Optimizer, Scheduler
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import STATS_VERSION, PreparedStats
from sftjob_trainer.added_tokens import resize_embedding, rows_for
from sftjob_trainer.child import limit_memory, print_answer
from sftjob_trainer.failure import Failure
from sftjob_trainer.hardware import Choices, best_machine, choose
from sftjob_trainer.libraries import hide_bitsandbytes, hide_wandb
from sftjob_trainer.lora import ALL_LINEAR

_OF_THE_MACHINE: Final = ("tf32",)
"""Options of training.extra that only a GPU takes."""
_STEPS: Final = 1000
"""Of a run whose length is not known before its data is tokenized."""
_WORDS: Final = 400
_COMPUTING: Final = re.compile(r"/(bitsandbytes|torch)/(?!optim/|utils/(data/|checkpoint))")
"""Files whose errors are about tensors without values, not about options."""
_NO_VALUES: Final = re.compile(r"\bmeta\b")


class UnknownError(Exception):
    """What cannot be known without weights."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field that somebody has set, its value, and the run config `without` it."""

    field: str
    value: Any
    without: RunConfig

    def __str__(self) -> str:
        return f"{self.field}: {json.dumps(self.value, default=str)}"


def refusal(config: RunConfig, directory: Path) -> str | None:
    """The sentence about what the libraries refuse; None: they take all of it.

    An option is to blame where the trainer can be made without it.

    Raises:
        UnknownError: the trainer cannot be made, and that is not due to the options.
    """
    error = _error(config, directory)
    if error is None:
        return None
    if isinstance(error, Failure) and error.__cause__ is None:
        return error.message
    cause = error.__cause__ if isinstance(error, Failure) and error.__cause__ is not None else error
    words = (str(cause).strip() or type(cause).__name__)[:_WORDS]
    for option in options(config):
        if _error(option.without, directory) is None:
            return f"{option}: {_library(cause)} refuses it: {words}"
    blamed = ", ".join(map(str, _needed_together(config, directory)))
    return f"{blamed}: {_library(cause)} refuses them together: {words}"


def _needed_together(config: RunConfig, directory: Path) -> list[Option]:
    """Options without which the trainer can be made, where no single one suffices.

    Raises:
        UnknownError: it cannot be made without any.
    """
    left_out: list[Option] = []
    while (error := _error(config, directory)) is not None:
        if (option := next(options(config), None)) is None:
            raise UnknownError(f"{type(error).__name__}: {error}")
        left_out.append(option)
        config = option.without
    return left_out


def options(config: RunConfig) -> Iterator[Option]:
    """What can be left out of `config`, the most particular first."""
    training, lora = config.training, config.method.lora
    for name, value in training.extra.items():
        yield _of_training(config, f"extra.{name}", value, extra=_but(training.extra, name))
    if lora is not None:
        yield from _lora_options(config, lora)
    if training.scheduler is not Scheduler.LINEAR:
        yield _of_training(config, "scheduler", training.scheduler, scheduler=Scheduler.LINEAR)
    if training.optimizer is not Optimizer.ADAMW_TORCH:
        yield _of_training(config, "optimizer", training.optimizer, optimizer=Optimizer.ADAMW_TORCH)
    if training.neftune_noise_alpha is not None:
        yield _of_training(config, "neftuneNoiseAlpha", training.neftune_noise_alpha, neftune_noise_alpha=None)
    if training.packing:
        yield _of_training(config, "packing", True, packing=False)
    if training.gradient_checkpointing:
        yield _of_training(config, "gradientCheckpointing", True, gradient_checkpointing=False)


def _lora_options(config: RunConfig, lora: Lora) -> Iterator[Option]:
    for name, value in lora.extra.items():
        yield _of_lora(config, f"extra.{name}", value, extra=_but(lora.extra, name))
    if lora.modules_to_save:
        yield _of_lora(config, "modulesToSave", lora.modules_to_save, modules_to_save=())
    if lora.loraplus_lr_ratio is not None:
        yield _of_lora(config, "loraplusLrRatio", lora.loraplus_lr_ratio, loraplus_lr_ratio=None)
    if lora.dora:
        yield _of_lora(config, "dora", True, dora=False)
    if lora.bias is not LoraBias.NONE:
        yield _of_lora(config, "bias", lora.bias, bias=LoraBias.NONE)
    if lora.target_modules != (ALL_LINEAR,):
        yield _of_lora(config, "targetModules", lora.target_modules, target_modules=(ALL_LINEAR,))


def _of_training(config: RunConfig, field: str, value: Any, **simpler: Any) -> Option:
    without = replace(config, training=replace(config.training, **simpler))
    return Option(field=f"training.{field}", value=value, without=without)


def _of_lora(config: RunConfig, field: str, value: Any, **simpler: Any) -> Option:
    lora = config.method.lora
    if lora is None:
        raise ValueError("there is no option of LoRA without method.lora")
    without = replace(config, method=replace(config.method, lora=replace(lora, **simpler)))
    return Option(field=f"method.lora.{field}", value=value, without=without)


def _but(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {other: value for other, value in given.items() if other != name}


def _error(config: RunConfig, directory: Path) -> Exception | None:
    """What making the trainer raises; of quantized weights, or of others where those would be needed for it.

    Raises:
        UnknownError: something that has nothing to do with options.
    """
    quantized = config.method.quantization is not None
    for attempt in (True, False) if quantized else (False,):
        try:
            with warnings.catch_warnings(action="ignore"):  # Train has them too, where they are logged
                construct_without_weights(config, directory, quantized=attempt)
        except Exception as error:
            if not _needs_values(error):
                return error
            if not attempt:
                raise UnknownError(f"{type(error).__name__}: {error}") from error
        else:
            return None
    return None


def _needs_values(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, Failure) else error
    if cause is None:
        return False
    if isinstance(cause, NotImplementedError | MemoryError) or _NO_VALUES.search(str(cause)):
        return True
    innermost = traceback.extract_tb(cause.__traceback__)[-1].filename
    return isinstance(cause, RuntimeError | ValueError | AttributeError) and bool(_COMPUTING.search(innermost))


def _library(error: BaseException) -> str:
    """The library that an error comes from, as people call it."""
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
    """The trainer of `config` as a machine without a GPU makes it.

    Raises:
        UnknownError: no model can be made of the config in `directory`.
        Failure: it cannot be made with its positions scaled, or a library refuses an option.
    """
    import torch
    from datasets import Dataset

    from sftjob_trainer.construction import Material, construct, try_optimizer
    from sftjob_trainer.loftq import check_names
    from sftjob_trainer.tokenization import load_tokenizer, new_tokens
    from sftjob_trainer.world import ALONE

    choices = _choices(config)
    tried = _on_a_cpu(config)
    try:
        model = _model(tried, directory, choices, quantized=quantized)
        tokenizer = load_tokenizer(directory, config.model)
        new = new_tokens(directory, config.model).values()
        with torch.device("meta"):
            resize_embedding(model, rows_for(new), config.training.seed)
    except Failure:
        raise
    except Exception as error:
        raise UnknownError(f"no model can be made without weights: {error}") from error
    with tempfile.TemporaryDirectory() as output:
        material = Material(
            config=tried,
            stats=_stats(config),
            choices=choices,
            model=model,
            tokenizer=tokenizer,
            train=Dataset.from_dict({"input_ids": [[0, 1]], "labels": [[0, 1]]}),
            output_dir=Path(output),
            new_tokens=new,
            hooks={"broken_off": bool, "fetching": nullcontext, "world": ALONE, "rows": 1},
        )
        with torch.device("meta"):  # PEFT's new weights too
            trainer = construct(material)
        if uses_loftq(config.method.lora):
            check_names(trainer.model, directory)
        try_optimizer(trainer, material)
    _begin(trainer)
    return trainer


def _begin(trainer: Any) -> None:
    """Make what the Trainer makes when training begins, and checkpoint a function with the options for layers."""
    import torch
    from torch.utils.checkpoint import checkpoint

    trainer.get_train_dataloader()
    if not trainer.args.activation_checkpointing:
        return
    given = dict(trainer.args.activation_checkpointing_kwargs or {})
    places = {name: given.pop(name) for name in ("every_n_layers", "offload") if name in given}
    trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=given or None, **places)
    checkpoint(layer, torch.ones(1, requires_grad=True), **{"use_reentrant": False, **given})


def layer(hidden: Any) -> Any:
    """What stands for a layer of a model; PyTorch names it where it does not know an option."""
    return hidden * 2


def _choices(config: RunConfig) -> Choices:
    """Those of a machine that suits `config`, without what only a GPU has: fp16 and kernels."""
    found = choose(config, best_machine(config))
    half = found.precision is not Precision.FP32
    return replace(found, precision=Precision.BF16 if half else Precision.FP32, attention=None, liger=False)


def _on_a_cpu(config: RunConfig) -> RunConfig:
    extra = {name: value for name, value in config.training.extra.items() if name not in _OF_THE_MACHINE}
    training = replace(config.training, extra=extra, kernels=Kernels.NONE, compile=False)
    return replace(config, training=training, gpus=0, nodes=1)


def _model(config: RunConfig, directory: Path, choices: Choices, *, quantized: bool) -> Any:
    from sftjob_trainer.model import quantization_config
    from sftjob_trainer.rope import check_scaled, model_config, scale

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
    model.hf_device_map = {"": "meta"}  # the Trainer leaves such a model where it is
    return model


def _on_meta(settings: Any, config: RunConfig, choices: Choices) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            settings, dtype=getattr(torch, choices.dtype.value), trust_remote_code=config.model.trust_remote_code
        )


def _scaled_on_meta(settings: Any, directory: Path, config: RunConfig, choices: Choices) -> Any:
    """A model of scaled `settings`.

    Raises:
        Failure: it cannot be made, and without the scaling it can.
    """
    from sftjob_trainer.rope import FIELD, model_config

    try:
        return _on_meta(settings, config, choices)
    except Exception as error:  # noqa: BLE001 -- code that does not know the type may raise anything
        _on_meta(model_config(directory, config.model), config, choices)
        words = f"transformers cannot scale the RoPE of {settings.model_type} so: {str(error)[:_WORDS]}"
        raise Failure(Reason.CONFIG_INVALID, f"{FIELD}: {words}; write another type, or remove it") from None


def _stats(config: RunConfig) -> PreparedStats:
    """Statistics of data that nobody has looked at; only the number of steps is used."""
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
    """Read a run config from standard input, and print what the libraries say of it."""
    limit_memory()
    directory = Path(sys.argv[1])
    config = from_json(RunConfig, sys.stdin.buffer.read(), ignore_unknown=False)
    hide_wandb(config, leads=False)
    hide_bitsandbytes(config, [directory])
    try:
        print_answer({"refused": refusal(config, directory), "unknown": None})
    except UnknownError as error:
        print_answer({"refused": None, "unknown": str(error)[:_WORDS]})


if __name__ == "__main__":
    main()

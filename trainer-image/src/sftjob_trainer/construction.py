"""TRL's trainer for a run: its arguments, PEFT's config, optimizer and schedule, made of a model that is there.

Train makes it of the loaded model, Prepare of one without weights: what the libraries refuse is the same.
"""

import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trl import SFTConfig

from sftjob_contract.batches import packed_by_best_fit
from sftjob_contract.config import PaddingSide, RunConfig
from sftjob_contract.method import Lora, uses_eva
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer.added_tokens import check_unfrozen, with_embeddings
from sftjob_trainer.arguments import sft_arguments
from sftjob_trainer.collation import LeftPadding
from sftjob_trainer.distillation import DistillationTrainer, Weights, shared_vocabulary
from sftjob_trainer.eva import check_directions
from sftjob_trainer.failure import Failure
from sftjob_trainer.hardware import Choices, autocast_precision
from sftjob_trainer.lora import check_beginning, check_layers, check_tokens, layers_of, lora_config
from sftjob_trainer.trainer import Trainer
from sftjob_trainer.unfreezing import unfreeze

REFUSALS: Final = (ValueError, TypeError, ImportError, KeyError)
"""What the libraries raise about an option."""
_EVA_ON_META: Final = "lora with eva initialization used with low_cpu_mem_usage=False"
"""PEFT advises to make A and B without weights first; that saves the size of an adapter."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a trainer is made of. `teacher` None: no distillation.

    `hooks` are the arguments of our Trainer that TRL's does not have. `output_dir` is TRL's, which writes there only
    what the trainer asks it to. `evaluates`: before the first step. `adapter` are the fields of PEFT's config that an
    adapter to go on with has. `new_tokens` are ids that are new to the model.
    """

    config: RunConfig
    stats: PreparedStats
    choices: Choices
    model: Any
    tokenizer: Any
    train: Any
    output_dir: Path
    hooks: Mapping[str, Any]
    evaluation: Any | None = None
    evaluates: bool = False
    teacher: Any | None = None
    adapter: Mapping[str, Any] = field(default_factory=dict)
    new_tokens: Collection[int] = ()


def construct(material: Material) -> Trainer:
    """The trainer; `try_optimizer` is for what it makes only when it trains.

    Raises:
        Failure: a library refuses an option, or the options do not suit the model.
    """
    config, lora = material.config, material.config.method.lora
    if lora is not None:
        check_layers(lora, layers_of(material.model))
        check_tokens(lora, len(material.model.get_input_embeddings().weight))
        lora = with_embeddings(lora, material.model, material.new_tokens)
    if config.method.unfrozen_parameters is not None:
        unfreeze(material.model, config.method.unfrozen_parameters)
        check_unfrozen(material.model, material.new_tokens)
    args = sft_config(material)
    arguments = {
        **material.hooks,
        "model": material.model,
        "args": args,
        "train_dataset": material.train,
        "eval_dataset": material.evaluation,
        "processing_class": material.tokenizer,
        "data_collator": _collator(config, material.tokenizer, args),
        "peft_config": None if lora is None else lora_config(lora, material.adapter),
        "loraplus_lr_ratio": None if lora is None else lora.loraplus_lr_ratio,
    }
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_EVA_ON_META)
            trainer = _trainer(material, arguments)
    except ValueError as error:
        raise Failure(Reason.CONFIG_INVALID, f"this model can not be trained as asked: {error}") from error
    if lora is not None:
        _check_head(trainer.model, lora)
        check_beginning(trainer.model, lora)
        if uses_eva(lora):
            check_directions(trainer.model, lora)
        if material.new_tokens:
            _save_trained_weights_only(trainer.model)
    return trainer


def sft_config(material: Material) -> Any:
    """TRL's arguments.

    Raises:
        Failure: TRL does not take a value of training.extra.
    """
    config = material.config
    precision = autocast_precision(config, material.choices)
    given = sft_arguments(
        config,
        material.stats,
        output_dir=material.output_dir,
        precision=precision,
        liger=material.choices.liger,
    )
    try:
        return SFTConfig(**given, eval_on_start=material.evaluates)
    except REFUSALS as error:
        if not config.training.extra:
            raise
        raise _refused(config, error) from error


def _trainer(material: Material, arguments: Mapping[str, Any]) -> Trainer:
    distillation = material.config.method.distillation
    if distillation is None or material.teacher is None:
        return Trainer(**arguments)
    weights = Weights(
        alpha=distillation.alpha,
        temperature=distillation.temperature,
        vocabulary=shared_vocabulary(material.model, material.teacher, len(material.tokenizer)),
    )
    return DistillationTrainer(teacher=material.teacher, weights=weights, **arguments)


def _collator(config: RunConfig, tokenizer: Any, args: Any) -> LeftPadding | None:
    """What makes batches of rows; None: TRL's own. Sequences packed by best fit are never filled up."""
    if config.model.padding_side is PaddingSide.RIGHT or packed_by_best_fit(config):
        return None
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return LeftPadding(pad_token_id=pad, pad_to_multiple_of=args.pad_to_multiple_of)


def _save_trained_weights_only(model: Any) -> None:
    """Keep PEFT from saving the frozen embedding twice beside the trained one, as it does with one that was resized.

    PEFT finds that out from the config of the base that is named here; the output names its base again.
    """
    for config in model.peft_config.values():
        config.base_model_name_or_path = ""


def _check_head(model: Any, lora: Lora) -> None:
    """See that the loss can be computed from the output head's weight and bias, which TRL reads without calling it.

    Raises:
        Failure: PEFT has put a layer in its place that does not have both, as for tokens that are trained one by one.
    """
    head = model.get_output_embeddings()
    if head is None or all(hasattr(head, name) for name in ("weight", "bias")):
        return
    given = lora.extra.get("trainable_token_indices")
    option = "method.lora" if given is None else f"method.lora.extra.trainable_token_indices: {json.dumps(given)}"
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    why = "the model's output head is its embedding, and " if tied else ""
    raise Failure(
        Reason.CONFIG_INVALID,
        f"{option}: {why}PEFT's {type(head).__name__} in the place of the head has no bias that TRL can compute the "
        "loss with; remove it, and name the embedding in method.lora.modulesToSave to train it as a whole",
    )


def try_optimizer(trainer: Trainer, material: Material) -> None:
    """Make optimizer and schedule once for trying: their own options are looked at nowhere else before training.

    Raises:
        Failure: they do not take a value.
    """
    try:
        trainer.create_optimizer_and_scheduler(material.stats.max_steps)
    except REFUSALS as error:
        raise _refused(material.config, error) from error
    trainer.optimizer = trainer.lr_scheduler = None


def _refused(config: RunConfig, error: Exception) -> Failure:
    training = config.training
    names = ", ".join(training.extra)
    fields = f"training.optimizer: {training.optimizer}, training.scheduler: {training.scheduler}"
    where = f"training.extra: {names}" if names else fields
    return Failure(Reason.CONFIG_INVALID, f"{where}: TRL refuses it: {error}")

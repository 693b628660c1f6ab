"""Build TRL's trainer for a run: its arguments, PEFT's config, optimizer and schedule, for an existing model.

Train builds it for the loaded model, Prepare for a model without weights: the libraries refuse the same options in
both.
"""

import json
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from trl import SFTConfig

from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.batches import DENSE, packed_by_best_fit
from sftjob_contract.run.config import PaddingSide, RunConfig
from sftjob_contract.run.method import Lora, uses_eva
from sftjob_trainer.models.added_tokens import check_unfrozen, with_embeddings
from sftjob_trainer.models.hardware import Choices, autocast_precision
from sftjob_trainer.models.load import attention_of
from sftjob_trainer.models.lora import check_initialization, check_layers, check_tokens, layers_of, lora_config
from sftjob_trainer.models.unfreezing import unfreeze
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.run.sft_config import sft_arguments
from sftjob_trainer.training.collation import LeftPadding
from sftjob_trainer.training.distillation import DistillationTrainer, Weights, shared_vocabulary
from sftjob_trainer.training.eva import check_directions
from sftjob_trainer.training.sft_trainer import RunHooks, Trainer

REFUSALS: Final = (ValueError, TypeError, ImportError, KeyError)
"""Errors that the libraries raise about an option."""
_EVA_ON_META: Final = "lora with eva initialization used with low_cpu_mem_usage=False"
"""PEFT recommends creating A and B without weights first, which saves the size of an adapter in memory."""


@dataclass(frozen=True, kw_only=True)
class TrainerInputs:
    """The inputs of a trainer. `teacher` is None without distillation.

    `hooks` are what the trainer calls of the run. `output_dir` is TRL's; TRL writes there only
    when the trainer requests it. `evaluates`: before the first step. `adapter` are the PEFT config fields of an adapter
    to continue from. `new_tokens` are ids that are new to the model.
    """

    config: RunConfig
    stats: PreparedStats
    choices: Choices
    model: Any
    tokenizer: Any
    train: Any
    output_dir: Path
    hooks: RunHooks
    evaluation: Any | None = None
    evaluates: bool = False
    teacher: Any | None = None
    adapter: Mapping[str, Any] = field(default_factory=dict)
    new_tokens: Collection[int] = ()


def construct(inputs: TrainerInputs) -> Trainer:
    """Build the trainer. `try_optimizer` covers what it only builds when it trains.

    Raises:
        StageError: a library refuses an option, or the options do not fit the model.
    """
    config, lora = inputs.config, inputs.config.method.lora
    if lora is not None:
        check_layers(lora, layers_of(inputs.model))
        check_tokens(lora, len(inputs.model.get_input_embeddings().weight))
        lora = with_embeddings(lora, inputs.model, inputs.new_tokens)
    if config.method.unfrozen_parameters is not None:
        unfreeze(inputs.model, config.method.unfrozen_parameters)
        check_unfrozen(inputs.model, inputs.new_tokens)
    args = sft_config(inputs)
    peft_config = None if lora is None else lora_config(lora, inputs.adapter)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_EVA_ON_META)
            trainer = _trainer_class(inputs)(
                hooks=inputs.hooks,
                rows=inputs.stats.sequences,
                loraplus_lr_ratio=None if lora is None else lora.loraplus_lr_ratio,
                model=inputs.model,
                args=args,
                train_dataset=inputs.train,
                eval_dataset=inputs.evaluation,
                processing_class=inputs.tokenizer,
                data_collator=_collator(config, inputs.tokenizer, args),
                peft_config=peft_config,
            )
    except ValueError as error:
        raise StageError(Reason.CONFIG_INVALID, f"this model cannot be trained with these options: {error}") from error
    if lora is not None:
        _check_head(trainer.model, lora)
        check_initialization(trainer.model, lora)
        if uses_eva(lora):
            check_directions(trainer.model, lora)
        if inputs.new_tokens:
            _save_trained_weights_only(trainer.model)
    return trainer


def sft_config(inputs: TrainerInputs) -> Any:
    """TRL's arguments.

    Raises:
        StageError: TRL refuses a value of training.extra.
    """
    config = inputs.config
    precision = autocast_precision(config, inputs.choices)
    given = sft_arguments(
        config,
        inputs.stats,
        output_dir=inputs.output_dir,
        precision=precision,
        liger=inputs.choices.liger,
        dense=any(attention_of(model) in DENSE for model in (inputs.model, inputs.teacher) if model is not None),
    )
    try:
        return SFTConfig(**given, eval_on_start=inputs.evaluates)
    except REFUSALS as error:
        if not config.training.extra:
            raise
        raise _refused(config, error) from error


def _trainer_class(inputs: TrainerInputs) -> Callable[..., Trainer]:
    """The class of the trainer; for a distillation, with the teacher and the weights of the loss."""
    distillation = inputs.config.method.distillation
    if distillation is None or inputs.teacher is None:
        return Trainer
    weights = Weights(
        alpha=distillation.alpha,
        temperature=distillation.temperature,
        vocabulary=shared_vocabulary(inputs.model, inputs.teacher, len(inputs.tokenizer)),
    )
    return partial(DistillationTrainer, teacher=inputs.teacher, weights=weights)


def _collator(config: RunConfig, tokenizer: Any, args: Any) -> LeftPadding | None:
    """The collator; None selects TRL's own. Sequences packed by best fit are never padded."""
    if config.model.padding_side is PaddingSide.RIGHT or packed_by_best_fit(config):
        return None
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return LeftPadding(pad_token_id=pad, pad_to_multiple_of=args.pad_to_multiple_of)


def _save_trained_weights_only(model: Any) -> None:
    """Keep PEFT from saving a resized embedding a second time, frozen, next to the trained one.

    PEFT detects resizing from the base config named here. The output's config names its base again.
    """
    for config in model.peft_config.values():
        config.base_model_name_or_path = ""


def _check_head(model: Any, lora: Lora) -> None:
    """Check that the output head has the weight and bias that TRL computes the loss from, without calling the head.

    Raises:
        StageError: PEFT has replaced the head with a layer that lacks one of them, as it does for tokens trained one by
            one.
    """
    head = model.get_output_embeddings()
    if head is None or all(hasattr(head, name) for name in ("weight", "bias")):
        return
    given = lora.extra.get("trainable_token_indices")
    option = "method.lora" if given is None else f"method.lora.extra.trainable_token_indices: {json.dumps(given)}"
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    why = "the model's output head is its embedding, and " if tied else ""
    raise StageError(
        Reason.CONFIG_INVALID,
        f"{option}: {why}PEFT's {type(head).__name__} in the place of the head has no bias that TRL can compute the "
        "loss with; remove it, and name the embedding in method.lora.modulesToSave to train it as a whole",
    )


def try_optimizer(trainer: Trainer, inputs: TrainerInputs) -> None:
    """Build optimizer and schedule once as a check: their own options are validated nowhere else before training.

    Raises:
        StageError: they refuse a value.
    """
    try:
        trainer.create_optimizer_and_scheduler(inputs.stats.max_steps)
    except REFUSALS as error:
        raise _refused(inputs.config, error) from error
    trainer.optimizer = trainer.lr_scheduler = None


def _refused(config: RunConfig, error: Exception) -> StageError:
    training = config.training
    names = ", ".join(training.extra)
    fields = f"training.optimizer: {training.optimizer}, training.scheduler: {training.scheduler}"
    where = f"training.extra: {names}" if names else fields
    return StageError(Reason.CONFIG_INVALID, f"{where}: TRL refuses it: {error}")

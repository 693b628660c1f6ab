"""TRL's SFTTrainer on the prepared data. The one module that combines model, data and training loop."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import load_from_disk
from transformers import PrinterCallback

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_contract.run.batches import packed_by_best_fit
from sftjob_contract.run.config import Precision, RunConfig
from sftjob_contract.run.method import uses_eva, uses_loftq
from sftjob_trainer.evaluation.generated_samples import GenerationEvaluator, samples
from sftjob_trainer.evaluation.generation import Generator
from sftjob_trainer.evaluation.prompts import needs_answers, questions
from sftjob_trainer.models.added_tokens import resize_embedding, rows_for
from sftjob_trainer.models.hardware import Choices, autocast_precision, choose, this_machine, trainable_parameters
from sftjob_trainer.models.initial_adapter import initial_adapter
from sftjob_trainer.models.load import attention_of, load_model, load_teacher, set_attention
from sftjob_trainer.models.packing.check import packing_error
from sftjob_trainer.models.packing.isolation import packing_problem
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.reporting.mfu import compute_cost
from sftjob_trainer.run.checkpoints import ResumePoint
from sftjob_trainer.run.context import Run
from sftjob_trainer.run.loading import loading
from sftjob_trainer.run.metrics_log import MetricsRecorder
from sftjob_trainer.tokens.tokenizer import load_prepared_tokenizer, new_tokens
from sftjob_trainer.training import eva, loftq
from sftjob_trainer.training.callbacks import RunCallback
from sftjob_trainer.training.construction import TrainerInputs, construct, try_optimizer
from sftjob_trainer.training.ddp import tune_ddp
from sftjob_trainer.training.sampling import pad_to_multiple
from sftjob_trainer.training.sft_trainer import Trainer
from sftjob_trainer.training.starting_point import ModelPaths, load_adapter

logger = logging.getLogger(__name__)


def fit(run: Run, model_paths: ModelPaths, point: ResumePoint) -> None:
    """Train from `point` to the last step, or to the step at which a stop was requested.

    Raises:
        StageError: the config does not fit model or machine, training diverged, or it ended before its last step.
    """
    run.telemetry.finish_startup_part("imports")
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
    transformers.utils.logging.disable_progress_bar()
    trainer = build(run, model_paths, point.directory)
    initial = initial_adapter(trainer.model, run.config.method.lora, point.directory)
    with MetricsRecorder(run) as recorder, run.stop:
        trainer.add_callback(RunCallback(run, recorder, generation_evaluator(run, trainer), initial))
        trainer.train(resume_from_checkpoint=str(point.directory) if point.directory else None)
    if run.must_stop():
        raise run.stop_error()
    if not run.telemetry.ended:
        raise StageError(
            Reason.INTERNAL_ERROR,
            f"training ended after step {run.telemetry.step} of {run.stats.max_steps} although nothing requested it",
        )


def build(run: Run, model_paths: ModelPaths, checkpoint: Path | None = None) -> Trainer:
    """Build the trainer with model and data loaded. It loads the state of the run's own `checkpoint` when it trains.

    Raises:
        StageError: the config does not fit model or machine.
    """
    config = run.config
    choices = choose(config, this_machine())
    for reason in choices.reasons:
        logger.info("%s", reason)
    lora = config.method.lora
    source = model_paths.model if lora else model_paths.checkpoint or model_paths.model
    with loading(run, source):
        model = load_model(source, config, choices, model_paths.model)
    new = new_tokens(model_paths.model, config.model).values()
    resize_embedding(model, rows_for(new), config.training.seed)
    set_attention(model, choices, _step_precision(config, choices))
    logger.info("attention is computed by %s", attention_of(model))
    _check_packing(config, model, choices)
    run.telemetry.finish_startup_part("model")
    tokenizer = load_prepared_tokenizer(model_paths.model, config.model, run.volume)
    inputs = TrainerInputs(
        config=config,
        stats=run.stats,
        choices=choices,
        model=model,
        tokenizer=tokenizer,
        train=_load_rows(run, layout.PREPARED_TRAIN),
        evaluation=_load_rows(run, layout.PREPARED_EVALUATION) if run.stats.evaluation_sequences else None,
        evaluates=run.evaluates_at(run.telemetry.step) and run.telemetry.eval_loss_at(run.telemetry.step) is None,
        output_dir=run.store.staging,
        teacher=_load_teacher(run, model_paths, choices),
        new_tokens=new,
        hooks=run,
        adapter=eva.kept_shape(checkpoint) if uses_eva(lora) and checkpoint is not None else {},
    )
    trainer = construct(inputs)
    if trainer.args.world_size != run.world.size:
        trainer_size = trainer.args.world_size
        raise StageError(Reason.INTERNAL_ERROR, f"{run.world.size} processes train, but TRL knows of {trainer_size}")
    if lora is not None and checkpoint is None:
        _initialize_adapter(trainer, run, model_paths)
    elif uses_eva(lora):
        eva.name_layers(trainer.model)
    tune_ddp(trainer, run.world)
    trainer.remove_callback(PrinterCallback)
    try_optimizer(trainer, inputs)
    _log_size(run, trainer.model, choices)
    run.telemetry.finish_startup_part("data")
    return trainer


def _initialize_adapter(trainer: Trainer, run: Run, model_paths: ModelPaths) -> None:
    """Set the adapter's initial weights if they are not PEFT's default.

    Raises:
        StageError: they are not available.
    """
    lora = run.config.method.lora
    if lora is not None and model_paths.checkpoint is not None:
        load_adapter(trainer.model, model_paths.checkpoint, lora)
    elif uses_eva(lora):
        eva.initialize(trainer, run)
    elif uses_loftq(lora):
        loftq.initialize(trainer, run, model_paths.model)


def _check_packing(config: RunConfig, model: Any, choices: Choices) -> None:
    """Verify on the loaded model, with the kernels available here, that packed documents do not affect each other.

    Raises:
        StageError: they do.
    """
    if not packed_by_best_fit(config):
        return
    problem = packing_problem(model, _step_precision(config, choices))
    if problem is not None:
        raise packing_error(config, f"{model.config.model_type}, attention {attention_of(model)}", problem.clause)
    logger.info("packing: two documents in one row were computed as each alone")


def _step_precision(config: RunConfig, choices: Choices) -> torch.dtype:
    """The dtype in which a step computes its products."""
    half_types = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    loaded: torch.dtype = getattr(torch, choices.dtype.value)
    return half_types.get(autocast_precision(config, choices), loaded)


def _log_size(run: Run, model: Any, choices: Choices) -> None:
    """Log what is trained in the format of PEFT's print_trainable_parameters, and pass it to telemetry."""
    trained, total = trainable_parameters(model)
    logger.info("%s of %s parameters are trained (%.4g %%)", f"{trained:,}", f"{total:,}", 100 * trained / total)
    device = this_machine().gpu if run.config.gpus else None
    run.telemetry.set_parameters(trained, total)
    run.telemetry.set_compute_cost(
        compute_cost(run.config, run.stats, precision=choices.precision, device=device, trainable=trained)
    )


def generation_evaluator(run: Run, trainer: Trainer) -> GenerationEvaluator:
    """The prompts for the model at evaluations, and before and after training.

    Raises:
        StageError: no held-out row can serve as a prompt.
    """
    config = run.config
    tokenizer = trainer.processing_class
    return GenerationEvaluator(
        run=run,
        generator=Generator(
            model=trainer.model,
            tokenizer=tokenizer,
            max_new_tokens=config.evaluation.max_new_tokens,
            batch_size=config.training.per_device_batch_size,
            is_interrupted=run.agree_to_stop,
            should_stop_early=lambda: run.stop.signalled and not run.telemetry.ended,
            autocast=trainer.accelerator.autocast if config.method.lora else nullcontext,
            world=run.world,
        ),
        questions=questions(_load_prepared(run, layout.PREPARED_SAMPLES)) if needs_answers(config.evaluation) else (),
        samples=samples(config, run.stats, tokenizer, run.volume),
    )


def _load_teacher(run: Run, model_paths: ModelPaths, choices: Choices) -> Any | None:
    """The teacher of a distillation; None without one."""
    if model_paths.teacher is None:
        return None
    with loading(run, model_paths.teacher):
        return load_teacher(model_paths.teacher, run.config, choices)


def _load_rows(run: Run, part: str) -> Any:
    """Training or evaluation rows, the same number for each process."""
    rows = _load_prepared(run, part)
    return rows if run.world.size == 1 else pad_to_multiple(rows, run.batch_rows)


def _load_prepared(run: Run, part: str) -> Any:
    return load_from_disk(run.volume / part)

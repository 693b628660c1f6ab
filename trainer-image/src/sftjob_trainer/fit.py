"""TRL's SFTTrainer on the prepared data. The one module that brings model, data and training loop together."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import load_from_disk
from transformers import PrinterCallback

from sftjob_contract import layout
from sftjob_contract.batches import packed_by_best_fit
from sftjob_contract.config import Precision, RunConfig
from sftjob_contract.method import uses_eva, uses_loftq
from sftjob_contract.reasons import Reason
from sftjob_trainer import eva, loftq
from sftjob_trainer.added_tokens import resize_embedding, rows_for
from sftjob_trainer.callbacks import RunCallback
from sftjob_trainer.checkpoints import ResumePoint
from sftjob_trainer.construction import Material, construct, try_optimizer
from sftjob_trainer.examination import Examination, samples
from sftjob_trainer.failure import Failure
from sftjob_trainer.flops import arithmetic
from sftjob_trainer.generation import Generator
from sftjob_trainer.hardware import Choices, autocast_precision, choose, this_machine, trainable_parameters
from sftjob_trainer.initial_adapter import initial_adapter
from sftjob_trainer.loading import loading
from sftjob_trainer.model import attention_of, load_model, load_teacher
from sftjob_trainer.packing_check import refused
from sftjob_trainer.packing_isolation import packing_problem
from sftjob_trainer.questions import needs_answers, questions
from sftjob_trainer.recording import Recorder
from sftjob_trainer.run import Run
from sftjob_trainer.sampling import filled_up
from sftjob_trainer.start import Origin, load_adapter
from sftjob_trainer.tokenization import load_prepared_tokenizer, new_tokens
from sftjob_trainer.trainer import Trainer

logger = logging.getLogger(__name__)


def fit(run: Run, origin: Origin, point: ResumePoint) -> None:
    """Train from `point` to the last step, or to the step at which a stop was requested.

    Raises:
        Failure: the config does not suit model or machine, training diverged, or it ended before its last step.
    """
    run.telemetry.loaded("imports")
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
    transformers.utils.logging.disable_progress_bar()
    trainer = build(run, origin, point.directory)
    initial = initial_adapter(trainer.model, run.config.method.lora, point.directory)
    with Recorder(run) as recorder, run.stop:
        trainer.add_callback(RunCallback(run, recorder, examination(run, trainer), initial))
        trainer.train(resume_from_checkpoint=str(point.directory) if point.directory else None)
    if run.must_stop():
        raise run.stopped()
    if not run.telemetry.ended:
        raise Failure(
            Reason.INTERNAL_ERROR,
            f"training ended after step {run.telemetry.step} of {run.stats.max_steps} although nobody asked for it",
        )


def build(run: Run, origin: Origin, checkpoint: Path | None = None) -> Trainer:
    """The trainer, with model and data loaded; the state in a `checkpoint` of its own is loaded when it trains.

    Raises:
        Failure: the config does not suit model or machine.
    """
    config = run.config
    choices = choose(config, this_machine())
    for reason in choices.reasons:
        logger.info("%s", reason)
    lora = config.method.lora
    source = origin.model if lora else origin.checkpoint or origin.model
    with loading(run, source):
        model = load_model(source, config, choices, origin.model)
    new = new_tokens(origin.model, config.model).values()
    resize_embedding(model, rows_for(new), config.training.seed)
    logger.info("attention is computed by %s", attention_of(model))
    _check_isolation(config, model, choices)
    run.telemetry.loaded("model")
    tokenizer = load_prepared_tokenizer(origin.model, config.model, run.volume)
    material = Material(
        config=config,
        stats=run.stats,
        choices=choices,
        model=model,
        tokenizer=tokenizer,
        train=_rows(run, layout.PREPARED_TRAIN),
        evaluation=_rows(run, layout.PREPARED_EVALUATION) if run.stats.evaluation_sequences else None,
        evaluates=run.evaluates_at(run.telemetry.step) and run.telemetry.eval_loss_at(run.telemetry.step) is None,
        output_dir=run.store.staging,
        teacher=_teacher(run, origin, choices),
        new_tokens=new,
        hooks={
            "broken_off": run.agree_to_stop,
            "fetching": run.fetching,
            "world": run.world,
            "rows": run.stats.sequences,
        },
        adapter=eva.kept_shape(checkpoint) if uses_eva(lora) and checkpoint is not None else {},
    )
    trainer = construct(material)
    if trainer.args.world_size != run.world.size:
        known = trainer.args.world_size
        raise Failure(Reason.INTERNAL_ERROR, f"{run.world.size} processes train, but TRL knows of {known}")
    if lora is not None and checkpoint is None:
        _begin(trainer, run, origin)
    elif uses_eva(lora):
        eva.name_layers(trainer.model)
    trainer.remove_callback(PrinterCallback)
    try_optimizer(trainer, material)
    _tell_size(run, trainer.model, choices)
    run.telemetry.loaded("data")
    return trainer


def _begin(trainer: Trainer, run: Run, origin: Origin) -> None:
    """Give the adapter its first weights, where they are not PEFT's own.

    Raises:
        Failure: they cannot be had.
    """
    lora = run.config.method.lora
    if lora is not None and origin.checkpoint is not None:
        load_adapter(trainer.model, origin.checkpoint, lora)
    elif uses_eva(lora):
        eva.initialize(trainer, run)
    elif uses_loftq(lora):
        loftq.initialize(trainer, run, origin.model)


def _check_isolation(config: RunConfig, model: Any, choices: Choices) -> None:
    """Prove on the loaded model, and the kernels that it has here, that documents packed together stay apart.

    Raises:
        Failure: they do not.
    """
    if not packed_by_best_fit(config):
        return
    halves = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    precision = halves.get(autocast_precision(config, choices), getattr(torch, choices.dtype.value))
    problem = packing_problem(model, precision)
    if problem is not None:
        raise refused(config, f"{model.config.model_type}, attention {attention_of(model)}", problem.clause)
    logger.info("packing: two documents in one row were computed as each alone")


def _tell_size(run: Run, model: Any, choices: Choices) -> None:
    """What is trained, as PEFT's print_trainable_parameters says it; telemetry needs to know too."""
    trained, total = trainable_parameters(model)
    logger.info("%s of %s parameters are trained (%.4g %%)", f"{trained:,}", f"{total:,}", 100 * trained / total)
    device = this_machine().gpu if run.config.gpus else None
    run.telemetry.sized(trained, total)
    run.telemetry.computes(
        arithmetic(run.config, run.stats, precision=choices.precision, device=device, trainable=trained)
    )


def examination(run: Run, trainer: Trainer) -> Examination:
    """What is asked of the model at evaluations, and before and after training.

    Raises:
        Failure: no held-out row can be asked.
    """
    config = run.config
    tokenizer = trainer.processing_class
    return Examination(
        run=run,
        generator=Generator(
            model=trainer.model,
            tokenizer=tokenizer,
            max_new_tokens=config.evaluation.max_new_tokens,
            batch_size=config.training.per_device_batch_size,
            broken_off=run.agree_to_stop,
            hurried=lambda: run.stop.signalled and not run.telemetry.ended,
            autocast=trainer.accelerator.autocast if config.method.lora else nullcontext,
            world=run.world,
        ),
        questions=questions(_prepared(run, layout.PREPARED_SAMPLES)) if needs_answers(config.evaluation) else (),
        samples=samples(config, run.stats, tokenizer, run.volume),
    )


def _teacher(run: Run, origin: Origin, choices: Choices) -> Any | None:
    """The teacher of a distillation; None: there is none."""
    if origin.teacher is None:
        return None
    with loading(run, origin.teacher):
        return load_teacher(origin.teacher, run.config, choices)


def _rows(run: Run, part: str) -> Any:
    """Rows to train or to evaluate on, as many for each process."""
    rows = _prepared(run, part)
    return rows if run.world.size == 1 else filled_up(rows, run.batch_rows)


def _prepared(run: Run, part: str) -> Any:
    return load_from_disk(run.volume / part)

"""Callbacks of TRL's training loop: when to evaluate, save and stop, and what is reported."""
# ruff: noqa: ARG002 -- the signatures are those of transformers' callbacks

import logging
import math
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sftjob_contract import layout
from sftjob_contract.codec import to_json
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Activity
from sftjob_trainer.evaluation.generated_samples import GenerationEvaluator
from sftjob_trainer.models.hardware import peak_memory_bytes
from sftjob_trainer.models.initial_adapter import save_initial_adapter
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.reporting.telemetry import SAVED_TELEMETRY, TrainingLog
from sftjob_trainer.run.checkpoints import collect_rng_states
from sftjob_trainer.run.context import Run
from sftjob_trainer.run.metrics_log import MetricsRecorder
from sftjob_trainer.training.loss_scale import LossScale
from sftjob_trainer.training.trained_weights import check_moved, fingerprint

logger = logging.getLogger(__name__)


class RunCallback(TrainerCallback):
    """Controls evaluation, saving and stopping of transformers' loop, and feeds telemetry, reporter and metrics file.

    Every evaluation and save is preceded by a log. Divergence is therefore detected before it is saved, a checkpoint
    knows its token count, and logging windows after a resume equal those of an uninterrupted run.
    """

    def __init__(
        self,
        run: Run,
        recorder: MetricsRecorder,
        generation_evaluator: GenerationEvaluator,
        initial: dict[str, Any] | None = None,
    ) -> None:
        """`initial` is the adapter before its first step, for initializations that change the base."""
        self._run = run
        self._initial = initial
        self._recorder = recorder
        self._generation_evaluator = generation_evaluator
        self._loss_scale = LossScale(trained=run.telemetry.step > 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the untrained model answer sample prompts. Everything is loaded now, so checkpoints can be verified."""
        self._run.store.verify_older()
        if state.global_step == 0:
            self._run.telemetry.set_initial_weights(fingerprint(kwargs["model"]))
        if state.global_step == 0 and not self._generation_evaluator.sample(0):
            raise self._run.stop_error()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark training as active again."""
        self._run.set_activity(Activity.TRAINING)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Decide what follows this optimizer step."""
        run, step = self._run, state.global_step
        run.telemetry.end_step(step, state.epoch)
        self._loss_scale.after_step(kwargs["optimizer"], step, last=run.telemetry.ended)
        run.collect_verified()
        if step == run.telemetry.resumed_from_step + 1:
            self._log_startup_time()
        if step == run.stats.max_steps and run.config.training.early_stopping is None:
            self._generation_evaluator.sample(step)
        stopping = run.agree_to_stop()
        early = run.telemetry.stopped_early
        control.should_training_stop = control.should_training_stop or stopping or early
        control.should_evaluate = run.evaluates_at(step) and not stopping
        control.should_save = run.saves_at(step) or (stopping and run.config.checkpoints.on_termination) or early
        control.should_log = control.should_log or control.should_evaluate or control.should_save
        if control.should_evaluate:
            run.set_activity(Activity.EVALUATING)
        elif control.should_save:
            run.set_activity(Activity.SAVING)
        run.report()
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Record a training log. on_evaluate records evaluations; the closing summary is not recorded."""
        logs: Mapping[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        _check_finite("loss", logs["loss"], state.global_step)
        overflowed = args.fp16 and not math.isfinite(logs["grad_norm"])  # normal until the loss scale has settled
        if not overflowed:
            _check_finite("grad_norm", logs["grad_norm"], state.global_step)
        telemetry = self._run.telemetry
        telemetry.record_log(
            TrainingLog(
                step=state.global_step,
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                grad_norm=None if overflowed else logs["grad_norm"],
                tokens=int(logs["num_tokens"]) - self._run.padding_tokens(),
                peak_memory_bytes=peak_memory_bytes(),
            )
        )
        self._write_training_metrics()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Signal the watchdog during a long evaluation."""
        self._run.set_activity(Activity.EVALUATING)
        self._run.report()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        """Record the measurements. If a stop request interrupted the evaluation, save what is new and stop."""
        run, step = self._run, state.global_step
        metrics: Mapping[str, float] = kwargs["metrics"]
        loss = metrics.get("eval_loss")
        if loss is not None and run.config.training.early_stopping is not None:  # the best one becomes the output
            run.share_checkpoints()
        compute_metrics = None if loss is None else self._compute_metrics(loss, step)
        if loss is not None and compute_metrics is not None:
            self._record_evaluation(step, loss, compute_metrics, control)
        elif run.must_stop():
            if step == run.telemetry.resumed_from_step:
                raise run.stop_error()
            control.should_save = control.should_save or run.config.checkpoints.on_termination
            control.should_training_stop = True
        if control.should_save:
            run.set_activity(Activity.SAVING)
        run.report()
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Seal the checkpoint that transformers has just saved; at the end only if something was trained.

        A stop request received meanwhile takes effect without another step.
        """
        run, step = self._run, state.global_step
        if run.telemetry.ended:
            first = run.telemetry.saved().first_weights
            check_moved(kwargs["model"], first, step, run.config.training.learning_rate)
        staged = run.store.staging / layout.checkpoint_name(step)
        collect_rng_states(staged, run.world)
        if run.world.is_leader:
            if self._initial is not None:
                save_initial_adapter(self._initial, staged)
            (staged / SAVED_TELEMETRY).write_text(to_json(run.telemetry.saved()), encoding="utf-8")
            run.store.seal(step, time=run.telemetry.timestamp(), eval_loss=run.telemetry.eval_loss_at(step))
        run.store.complete = run.world.broadcast(run.store.complete)
        run.update_checkpoints()
        control.should_training_stop = run.agree_to_stop() or control.should_training_stop
        run.report()
        return control

    def _compute_metrics(self, loss: float, step: int) -> Mapping[str, float] | None:
        _check_finite("evaluation loss", loss, step)
        return self._generation_evaluator.compute_metrics(loss)

    def _record_evaluation(
        self, step: int, loss: float, compute_metrics: Mapping[str, float], control: TrainerControl
    ) -> None:
        """Record a complete evaluation. With early stopping, the best model is saved and sampled at once."""
        run, early = self._run, self._run.config.training.early_stopping
        best = run.is_output(loss)
        run.telemetry.record_evaluation(step, loss, compute_metrics)
        self._recorder.write({"evalLoss": loss, **compute_metrics})
        if early is None or step == run.telemetry.resumed_from_step:
            return
        if best:
            self._generation_evaluator.sample(step)
        if run.telemetry.stopped_early:
            logger.info(
                "stopping early after step %d of %d: %d evaluations in a row brought no improvement",
                step,
                run.stats.max_steps,
                early.patience,
            )
            control.should_training_stop = True
        control.should_save = control.should_save or best or run.telemetry.stopped_early

    def _log_startup_time(self) -> None:
        """Log the time until the first step of this attempt was done."""
        parts = self._run.telemetry.loading_parts
        shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
        logger.info("the first step was done after %.1f s: %s", sum(parts.values()), shown)

    def _write_training_metrics(self) -> None:
        progress = self._run.telemetry.progress()
        logger.info(
            "step %d of %d, epoch %.2f: loss %.4f, learning rate %.3g, %s s left",
            progress.step,
            progress.max_steps,
            progress.epoch,
            progress.loss,
            progress.learning_rate,
            progress.eta_seconds,
        )
        self._recorder.write(
            {
                "loss": progress.loss,
                "learningRate": progress.learning_rate,
                "gradNorm": progress.grad_norm,
                "tokens": progress.tokens,
                "tokensPerSecond": progress.tokens_per_second,
                "stepSeconds": progress.step_seconds,
                "dataWaitSeconds": progress.data_wait_seconds,
                "mfu": progress.mfu,
                "peakMemoryBytes": progress.peak_memory_bytes,
            }
        )


def _check_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise StageError(
            Reason.DIVERGED,
            f"training diverged: {name} is {value} at step {step}; "
            "a lower training.learningRate, more warmup or a lower training.maxGradNorm may help",
        )

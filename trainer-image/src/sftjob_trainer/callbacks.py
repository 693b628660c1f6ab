"""What happens at the edges of TRL's training loop: when to evaluate, save and stop, and what is told about it."""
# ruff: noqa: ARG002 -- the callbacks' signatures are transformers' own

import logging
import math
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sftjob_contract import layout
from sftjob_contract.codec import to_json
from sftjob_contract.progress import Activity
from sftjob_contract.reasons import Reason
from sftjob_trainer.checkpoints import collect_rng_states
from sftjob_trainer.examination import Examination
from sftjob_trainer.failure import Failure
from sftjob_trainer.hardware import peak_memory_bytes
from sftjob_trainer.initial_adapter import save_initial_adapter
from sftjob_trainer.loss_scale import LossScale
from sftjob_trainer.recording import Recorder
from sftjob_trainer.run import Run
from sftjob_trainer.telemetry import SAVED_TELEMETRY, TrainingLog
from sftjob_trainer.trained_weights import check_moved, fingerprint

logger = logging.getLogger(__name__)


class RunCallback(TrainerCallback):
    """Drives evaluation, saving and stopping of transformers' loop, and feeds telemetry, reporter and metrics file.

    A log precedes every evaluation and save, so divergence is found before it is saved, a checkpoint knows its token
    count, and logging windows after a resume are those of an uninterrupted run.
    """

    def __init__(
        self, run: Run, recorder: Recorder, examination: Examination, initial: dict[str, Any] | None = None
    ) -> None:
        """`initial` is the adapter before its first step, where its base was changed for it."""
        self._run = run
        self._initial = initial
        self._recorder = recorder
        self._examination = examination
        self._loss_scale = LossScale(trained=run.telemetry.step > 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the untrained model answer sample prompts. With all loaded, there is time to verify checkpoints."""
        self._run.store.verify_older()
        if state.global_step == 0:
            self._run.telemetry.begun(fingerprint(kwargs["model"]))
        if state.global_step == 0 and not self._examination.sample(0):
            raise self._run.stopped()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Training goes on, after whatever was in between."""
        self._run.doing(Activity.TRAINING)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Decide what follows this optimizer step."""
        run, step = self._run, state.global_step
        run.telemetry.step_ended(step, state.epoch)
        self._loss_scale.after_step(kwargs["optimizer"], step, last=run.telemetry.ended)
        run.take_up_verified()
        if step == run.telemetry.resumed_from_step + 1:
            self._tell_start()
        if step == run.stats.max_steps and run.config.training.early_stopping is None:
            self._examination.sample(step)
        stopping = run.agree_to_stop()
        early = run.telemetry.stopped_early
        control.should_training_stop = control.should_training_stop or stopping or early
        control.should_evaluate = run.evaluates_at(step) and not stopping
        control.should_save = run.saves_at(step) or (stopping and run.config.checkpoints.on_termination) or early
        control.should_log = control.should_log or control.should_evaluate or control.should_save
        if control.should_evaluate:
            run.doing(Activity.EVALUATING)
        elif control.should_save:
            run.doing(Activity.SAVING)
        run.report()
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float],
        **kwargs: Any,
    ) -> None:
        """Keep a training log; evaluations are kept by on_evaluate, the closing summary by nobody."""
        if "loss" not in logs:
            return
        _refuse_divergence("loss", logs["loss"], state.global_step)
        overflown = args.fp16 and not math.isfinite(logs["grad_norm"])  # usual while the loss scale is being found
        if not overflown:
            _refuse_divergence("grad_norm", logs["grad_norm"], state.global_step)
        telemetry = self._run.telemetry
        telemetry.logged(
            TrainingLog(
                step=state.global_step,
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                grad_norm=None if overflown else logs["grad_norm"],
                tokens=int(logs["num_tokens"]) - self._run.filling_tokens(),
                peak_memory_bytes=peak_memory_bytes(),
            )
        )
        self._write_training_metrics()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stay heard of during a long evaluation."""
        self._run.doing(Activity.EVALUATING)
        self._run.report()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **kwargs: Any,
    ) -> TrainerControl:
        """Keep what was measured; if a stop request broke the evaluation off, save what is new and stop."""
        run, step = self._run, state.global_step
        loss = metrics.get("eval_loss")
        if loss is not None and run.config.training.early_stopping is not None:  # where the best one decides
            run.settle_checkpoints()
        measured = None if loss is None else self._measured(loss, step)
        if loss is not None and measured is not None:
            self._evaluated(step, loss, measured, control)
        elif run.must_stop():
            if step == run.telemetry.resumed_from_step:
                raise run.stopped()
            control.should_save = control.should_save or run.config.checkpoints.on_termination
            control.should_training_stop = True
        if control.should_save:
            run.doing(Activity.SAVING)
        run.report()
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Seal what transformers has just saved, at the end only if something was trained.

        Whoever was asked to stop meanwhile need not take another step.
        """
        run, step = self._run, state.global_step
        if run.telemetry.ended:
            first = run.telemetry.saved().first_weights
            check_moved(kwargs["model"], first, step, run.config.training.learning_rate)
        staged = run.store.staging / layout.checkpoint_name(step)
        collect_rng_states(staged, run.world)
        if run.world.leads:
            if self._initial is not None:
                save_initial_adapter(self._initial, staged)
            (staged / SAVED_TELEMETRY).write_text(to_json(run.telemetry.saved()), encoding="utf-8")
            run.store.seal(step, time=run.telemetry.timestamp(), eval_loss=run.telemetry.eval_loss_at(step))
        run.store.complete = run.world.share(run.store.complete)
        run.tell_checkpoints()
        control.should_training_stop = run.agree_to_stop() or control.should_training_stop
        run.report()
        return control

    def _measured(self, loss: float, step: int) -> Mapping[str, float] | None:
        _refuse_divergence("evaluation loss", loss, step)
        return self._examination.measured(loss)

    def _evaluated(self, step: int, loss: float, measured: Mapping[str, float], control: TrainerControl) -> None:
        """Take in a whole evaluation. With early stopping the best model is saved and sampled at once."""
        run, early = self._run, self._run.config.training.early_stopping
        best = run.is_output(loss)
        run.telemetry.evaluated(step, loss, measured)
        self._recorder.write({"evalLoss": loss, **measured})
        if early is None or step == run.telemetry.resumed_from_step:
            return
        if best:
            self._examination.sample(step)
        if run.telemetry.stopped_early:
            logger.info(
                "stopping early after step %d of %d: %d evaluations in a row got no better",
                step,
                run.stats.max_steps,
                early.patience,
            )
            control.should_training_stop = True
        control.should_save = control.should_save or best or run.telemetry.stopped_early

    def _tell_start(self) -> None:
        """How long it took until the first step of this attempt was done."""
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


def _refuse_divergence(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Failure(
            Reason.DIVERGED,
            f"training diverged: {name} is {value} at step {step}; "
            "a lower training.learningRate, more warmup or a lower training.maxGradNorm may help",
        )

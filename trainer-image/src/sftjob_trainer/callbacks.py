"""What happens at the edges of TRL's training loop: when to evaluate, save and stop, and what is told about it."""
# ruff: noqa: ARG002 -- the callbacks' signatures are transformers' own

import json
import logging
import math
from collections.abc import Mapping
from typing import Any, TextIO

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sftjob_contract import layout
from sftjob_contract.codec import to_json
from sftjob_contract.progress import Activity
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.run import Run
from sftjob_trainer.telemetry import SAVED_TELEMETRY, TrainingLog

logger = logging.getLogger(__name__)


class RunCallback(TrainerCallback):
    """Drives evaluation, saving and stopping of transformers' loop, and feeds telemetry, reporter and metrics file.

    A log precedes every evaluation and save, so divergence is found before it is saved, a checkpoint knows its token
    count, and logging windows after a resume are those of an uninterrupted run.
    """

    def __init__(self, run: Run, metrics: TextIO) -> None:
        self._run = run
        self._metrics = metrics

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
        stopping = run.must_stop()
        control.should_training_stop = control.should_training_stop or stopping
        control.should_evaluate = run.evaluates_at(step) and not stopping
        control.should_save = run.saves_at(step) or stopping
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
        for name in ("loss", "grad_norm"):
            _refuse_divergence(name, logs[name], state.global_step)
        telemetry = self._run.telemetry
        telemetry.logged(
            TrainingLog(
                step=state.global_step,
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                grad_norm=logs["grad_norm"],
                tokens=int(logs["num_tokens"]),
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
        """Keep the evaluation loss; if a stop request broke the evaluation off, save what is new and stop."""
        run, step = self._run, state.global_step
        if "eval_loss" in metrics:
            _refuse_divergence("evaluation loss", metrics["eval_loss"], step)
            run.telemetry.evaluated(step, metrics["eval_loss"])
            self._write_metrics({"evalLoss": metrics["eval_loss"]})
        elif run.must_stop():
            if step == run.telemetry.resumed_from_step:
                raise run.stopped()
            control.should_save = control.should_training_stop = True
        if control.should_save:
            run.doing(Activity.SAVING)
        run.report()
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal what transformers has just saved."""
        run, step = self._run, state.global_step
        staged = run.store.staging / layout.checkpoint_name(step)
        (staged / SAVED_TELEMETRY).write_text(to_json(run.telemetry.saved()), encoding="utf-8")
        run.store.seal(step, time=run.telemetry.timestamp(), eval_loss=run.telemetry.eval_loss_at(step))
        run.telemetry.checkpoints(run.store.complete, run.store.best_step)
        run.report()

    def _write_training_metrics(self) -> None:
        progress = self._run.telemetry.progress()
        logger.info(
            "step %d of %d: loss %.4f, learning rate %.3g, %s s left",
            progress.step,
            progress.max_steps,
            progress.loss,
            progress.learning_rate,
            progress.eta_seconds,
        )
        self._write_metrics(
            {
                "loss": progress.loss,
                "learningRate": progress.learning_rate,
                "gradNorm": progress.grad_norm,
                "tokens": progress.tokens,
                "tokensPerSecond": progress.tokens_per_second,
            }
        )

    def _write_metrics(self, values: Mapping[str, float | None]) -> None:
        """One line of metrics.jsonl. Lines of an attempt that died may be followed by the same steps once more."""
        progress = self._run.telemetry.progress()
        head = {"time": progress.time, "attempt": progress.attempt, "step": progress.step, "epoch": progress.epoch}
        line = {name: value for name, value in {**head, **values}.items() if value is not None}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")


def _refuse_divergence(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Failure(
            Reason.DIVERGED,
            f"training diverged: {name} is {value} at step {step}; "
            "a lower training.learningRate, more warmup or a lower training.maxGradNorm may help",
        )

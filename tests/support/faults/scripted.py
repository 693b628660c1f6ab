"""A trainer that a test scripts: it reports and ends as its script says, and reads, trains and writes nothing.

It shares the trainer's code for the environment, reports and the termination message. Imported within such a process.
"""

import os
import signal
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from sftjob_contract.layout import OUTPUT_MODEL
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome, Output
from sftjob_contract.reports.progress import PROGRESS_VERSION, Activity, Checkpoint, HistoryPoint, Progress
from sftjob_contract.reports.stats import STATS_VERSION, PreparedStats
from sftjob_contract.run.config import DataFormat
from sftjob_trainer.process import termination
from sftjob_trainer.process.environment import Environment, read_environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.reporting.reporter import Endpoint, Reporter

STEPS: Final = 12
SAVE_STEPS: Final = 5
NEWEST: Final = "scripted-checkpoint"
"""File on the volume with the step of the newest checkpoint."""
STATS: Final = PreparedStats(
    version=STATS_VERSION,
    format=DataFormat.TEXT,
    rows=20,
    train_rows=18,
    evaluation_rows=2,
    truncated_rows=0,
    sequences=18,
    evaluation_sequences=2,
    tokens=180,
    trained_tokens=180,
    steps_per_epoch=9,
    max_steps=STEPS,
    dataset_fingerprint="0" * 64,
)
Script = dict[str, Any]


def play(stage: str, script: Script) -> NoReturn:
    """Run one stage as scripted, and exit."""
    environment = read_environment(os.environ)
    ended = _prepared(script) if stage == Stage.PREPARE else _trained(script, environment)
    termination.write_outcome(ended, environment.termination_log)
    os._exit(ended.exit_code)


def _prepared(script: Script) -> Outcome:
    failure = _failure(script)
    return failure or replace(termination.succeeded(Stage.PREPARE), prepared=STATS)


def _trained(script: Script, environment: Environment) -> Outcome:
    newest = environment.volume / NEWEST
    begins = int(newest.read_text()) if newest.exists() else 0
    step = script.get("step", STEPS)
    saved = max(begins, step - step % SAVE_STEPS)
    told = _progress(environment.attempt, begins, step, saved)
    newest.write_text(str(saved))
    assert environment.progress_url is not None
    endpoint = Endpoint(url=environment.progress_url, ca=environment.progress_ca, token=environment.progress_token)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with Reporter(endpoint) as reporter:
        reporter.offer(told)
        if script.get("waits"):
            signal.sigwait({signal.SIGTERM} if script.get("stops", True) else {signal.SIGUSR1})
            return _stopped(environment, begins, step + 1)
    if failure := _failure(script):
        return replace(failure, progress=told)
    output = Output(path=OUTPUT_MODEL, metrics={"initialEvalLoss": 3.0, "evalLoss": 2.5})
    return replace(termination.succeeded(Stage.TRAIN), progress=told, output=output)


def _stopped(environment: Environment, begins: int, step: int) -> Outcome:
    """The step at hand is done and saved."""
    (environment.volume / NEWEST).write_text(str(step))
    message = f"stopped on request after step {step} of {STEPS}; checkpoints/checkpoint-{step} is saved"
    outcome = termination.failed(Stage.TRAIN, StageError(Reason.INTERRUPTED, message))
    return replace(outcome, progress=_progress(environment.attempt, begins, step, step))


def _failure(script: Script) -> Outcome | None:
    if "reason" not in script:
        return None
    return termination.failed(Stage(script["stage"]), StageError(Reason(script["reason"]), script["message"]))


def _progress(attempt: int, begins: int, step: int, saved: int) -> Progress:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    checkpoint = Checkpoint(step=saved, path=f"checkpoints/checkpoint-{saved}", bytes=1000, time=now)
    curve = (HistoryPoint(step=0, eval_loss=3.0), HistoryPoint(step=step, loss=2.5))
    return Progress(
        version=PROGRESS_VERSION,
        attempt=attempt,
        activity=Activity.TRAINING,
        time=now,
        step=step,
        max_steps=STEPS,
        resumed_from_step=begins,
        tokens=10 * step,
        loss=2.5,
        eval_loss=2.5 if step == STEPS else 3.0,
        checkpoints=(checkpoint,) if saved else (),
        history=curve,
    )

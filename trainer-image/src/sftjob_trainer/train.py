"""The Train stage: fine-tune on the prepared data, from the newest good checkpoint to the final output."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from sftjob_contract import layout
from sftjob_contract.codec import from_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome, Output
from sftjob_contract.reports.progress import Activity
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.destinations import Retain
from sftjob_trainer import publish
from sftjob_trainer.distributed.stop_request import StopRequest
from sftjob_trainer.distributed.world import SINGLE_PROCESS, World, join, leave
from sftjob_trainer.models.hardware import choose, process_started, this_machine
from sftjob_trainer.output import export, retention
from sftjob_trainer.output.model_card import CardContent
from sftjob_trainer.output.prepared import read_stats
from sftjob_trainer.process import termination
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.libraries import gc_paused
from sftjob_trainer.process.ownership import JobDirectory
from sftjob_trainer.process.redaction import Redacted, secrets_in
from sftjob_trainer.process.watchdog import (
    Hang,
    frame_location,
    main_thread_frame,
    waits_for_peers,
    write_peers_stacks,
    write_stacks,
)
from sftjob_trainer.reporting.reporter import Endpoint, Reporter
from sftjob_trainer.reporting.summary import summary
from sftjob_trainer.reporting.telemetry import SAVED_TELEMETRY, SavedTelemetry, Telemetry
from sftjob_trainer.run.checkpoints import NO_CHECKPOINT, CheckpointStore, ResumePoint
from sftjob_trainer.run.context import Run
from sftjob_trainer.run.error_mapping import convert_library_errors
from sftjob_trainer.run.sft_config import with_checkpointing, with_micro_batch
from sftjob_trainer.training.starting_point import ModelPaths, initial_paths, resume_paths

logger = logging.getLogger(__name__)


def train(config: RunConfig, environment: Environment) -> Outcome:
    """Train to the end, or to a requested stop, and return the outcome.

    Raises:
        StageError: the run could not be initialized; there is no progress to report.
    """
    world = World(rank=environment.rank, size=environment.processes)
    with ExitStack() as stack:
        if world.is_leader:
            stack.enter_context(log_to_file(environment.volume / layout.TRAIN_LOG))
        reporter = stack.enter_context(Reporter(_report_endpoint(environment) if world.is_leader else None))
        join(world, gpus=config.gpus > 0)
        if world.is_leader:
            export.write_run_config(config, environment.volume)
        decided, reason = with_checkpointing(config, environment.gradient_checkpointing)
        logger.info("%s", reason)
        adjusted = with_micro_batch(decided, environment.micro_batch)
        return _train_and_publish(new_run(adjusted, environment, reporter, world), environment)


def _train_and_publish(run: Run, environment: Environment) -> Outcome:
    """Train and return the outcome. Only the leader does anything after training."""
    if (ended := run.world.broadcast(retention.read_outcome(run.volume))) is not None:
        logger.info("this run ended before and only its output was kept; nothing to do")
        if run.world.is_leader:
            retention.keep_output(run.volume)
        return ended
    try:
        _fit(run, environment)
        if not run.world.is_leader:
            return termination.succeeded(Stage.TRAIN)
        if environment.publish_stage:
            return _defer_publishing(run)
        output = _publish(run, environment)
        return _succeeded(run, output, environment.volume_uri or str(environment.volume))
    except StageError as failure:
        return replace(termination.failed(Stage.TRAIN, failure), progress=run.telemetry.progress())
    finally:
        if run.world.is_leader:
            run.store.discard_staged()


def new_run(config: RunConfig, environment: Environment, reporter: Reporter, world: World = SINGLE_PROCESS) -> Run:
    """A run at step 0, with the results of Prepare.

    Raises:
        StageError: Prepare did not run.
    """
    stats = read_stats(environment.volume)
    return Run(
        config=config,
        stats=stats,
        volume=environment.volume,
        store=CheckpointStore(environment.volume, config.checkpoints.keep, JobDirectory.for_run(config, environment)),
        telemetry=Telemetry(
            attempt=environment.attempt,
            max_steps=stats.max_steps,
            clock=time.monotonic,
            now=lambda: datetime.now(UTC),
            early_stopping=config.training.early_stopping,
            started=process_started(),
        ),
        reporter=reporter,
        stop=StopRequest(world),
        world=world,
        grace_seconds=environment.grace_seconds,
    )


def model_directories(config: RunConfig, environment: Environment) -> list[Path]:
    """Directories of a run's models; empty if they cannot be determined, as for a finished run."""
    try:
        found = resume_paths(config, environment, read_stats(environment.volume))
    except StageError:
        return []
    return [path for path in (found.model, found.teacher) if path is not None]


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Also write the log to `path`, appended across attempts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(Redacted(secrets_in(os.environ), "%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _fit(run: Run, environment: Environment) -> None:
    """Run the remaining steps, together with the other processes."""
    with run.watchdog.guard(lambda hang: _end_hung_process(run, environment, hang)), convert_library_errors(run):
        choose(run.config, this_machine())
        point = _resume(run)
        run.report()
        if not run.telemetry.ended:
            with gc_paused():
                from sftjob_trainer.training.build import fit
            fit(run, _model_paths(run, environment, point), point)
        leave(run.world)


def _end_hung_process(run: Run, environment: Environment, hang: Hang) -> NoReturn:
    """End the process from the watchdog's thread with an outcome and stacks, whatever the main thread is doing."""
    try:
        frame = main_thread_frame()
        step, size = run.telemetry.step, run.world.size
        process_name = f"the process of rank {run.world.rank}" if size > 1 else "the process"
        failure = StageError(
            Reason.HUNG,
            f"training hangs: no heartbeat from {process_name} for {hang.allowed_seconds:.0f} s after step {step} "
            f"({hang.activity}), many times what was usual; it is at {frame_location(frame)}; "
            f"the stacks of all threads are in {layout.TRAIN_LOG} and in the Pod's log",
            blames_peer=size > 1 and waits_for_peers(frame, on_gpu=run.config.gpus > 0),
        )
        logger.error("%s", failure.message)
        ended = replace(termination.failed(Stage.TRAIN, failure), progress=run.telemetry.progress())
        termination.write_outcome(ended, environment.termination_log)
        write_stacks(run.volume / layout.TRAIN_LOG)
        if environment.launcher is not None:
            write_peers_stacks(environment.launcher)
    finally:
        os._exit(ExitCode.INTERNAL)


def _defer_publishing(run: Run) -> Outcome:
    """Leave the final checkpoint to stage publish, which needs no GPU to copy it."""
    with convert_library_errors(run):
        final, metrics = _final_checkpoint(run)
        saved = replace(run.telemetry.saved(), history=())
        publish.save_pending(publish.PendingOutput(checkpoint=final.name, metrics=metrics, known=saved), run.volume)
    run.set_activity(Activity.FINISHED)
    for line in summary(saved, metrics, [f"left to stage publish, which makes it of {final.name}"]):
        logger.info("%s", line)
    return replace(termination.succeeded(Stage.TRAIN), progress=run.telemetry.progress(), unpublished=True)


def _final_checkpoint(run: Run) -> tuple[Path, dict[str, float]]:
    """The final checkpoint and its metrics."""
    run.set_activity(Activity.SAVING)
    run.collect_verified(wait=True)
    final = export.final_checkpoint(run.store.complete, run.config, run.volume)
    return final, run.telemetry.metrics(saved_telemetry(final))


def _publish(run: Run, environment: Environment) -> Output:
    """Write the output of the final checkpoint, and copy it to the other configured destinations."""
    with convert_library_errors(run):
        final, metrics = _final_checkpoint(run)
        content = CardContent(
            config=run.config,
            stats=run.stats,
            metrics=metrics,
            libraries=termination.library_versions(),
        )
        output = publish.publish_output(final, content, environment, run.report)
    run.set_activity(Activity.FINISHED)
    return output


def _model_paths(run: Run, environment: Environment, point: ResumePoint) -> ModelPaths:
    """What to load. The run's own checkpoints contain the weights, so another run's are for step 0 only."""
    find = initial_paths if point.directory is None else resume_paths
    return find(run.config, environment, run.stats)


def _succeeded(run: Run, output: Output, location: str) -> Outcome:
    """The outcome of a success, after removing what is not retained on the volume; `location` is its display name."""
    succeeded = replace(termination.succeeded(Stage.TRAIN), progress=run.telemetry.progress(), output=output)
    if run.config.output.retain is not Retain.ALL:
        run.telemetry.set_checkpoints((), None)
        succeeded = replace(succeeded, progress=run.telemetry.progress())
        retention.save_outcome(succeeded, run.volume)
        retention.keep_output(run.volume)
        run.report()
    for line in summary(run.telemetry.saved(), output.metrics, publish.output_locations(output, location)):
        logger.info("%s", line)
    return succeeded


def saved_telemetry(checkpoint: Path) -> SavedTelemetry:
    """The saved state of `checkpoint`."""
    return from_json(SavedTelemetry, (checkpoint / SAVED_TELEMETRY).read_bytes(), ignore_unknown=True)


def _resume(run: Run) -> ResumePoint:
    """Find the checkpoint to resume from, and its saved state. The leader searches for all processes."""
    point, run.store.complete = run.world.broadcast(
        (run.store.open(), run.store.complete) if run.world.is_leader else (NO_CHECKPOINT, ())
    )
    run.report_skipped(point.skipped)
    if point.directory is not None:
        logger.info("resuming from %s", point.directory.name)
        run.telemetry.resume(saved_telemetry(point.directory))
    run.update_checkpoints()
    return point


def _report_endpoint(environment: Environment) -> Endpoint | None:
    if environment.progress_url is None:
        return None
    return Endpoint(url=environment.progress_url, ca=environment.progress_ca, token=environment.progress_token)

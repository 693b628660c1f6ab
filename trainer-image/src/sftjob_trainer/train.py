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
from sftjob_contract.config import RunConfig
from sftjob_contract.destinations import Retain
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.outcome import Outcome, Output
from sftjob_contract.progress import Activity, Checkpoint
from sftjob_contract.reasons import Reason
from sftjob_trainer import outcome, outputs, publish, retention
from sftjob_trainer.arguments import with_checkpointing, with_micro_batch
from sftjob_trainer.card import Made
from sftjob_trainer.checkpoints import NOWHERE, CheckpointStore, ResumePoint
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.hardware import choose, process_started, this_machine
from sftjob_trainer.libraries import importing
from sftjob_trainer.ownership import JobDirectory
from sftjob_trainer.prepared import read_stats
from sftjob_trainer.redaction import Redacted, secrets_in
from sftjob_trainer.reporter import Endpoint, Reporter
from sftjob_trainer.run import Run
from sftjob_trainer.start import Origin, continued, origin
from sftjob_trainer.stop import StopRequest
from sftjob_trainer.summary import summary
from sftjob_trainer.telemetry import SAVED_TELEMETRY, SavedTelemetry, Telemetry
from sftjob_trainer.verdicts import verdicts
from sftjob_trainer.watchdog import (
    Silence,
    main_thread_frame,
    place_of,
    waits_for_peers,
    write_peers_stacks,
    write_stacks,
)
from sftjob_trainer.world import ALONE, World, join, leave

logger = logging.getLogger(__name__)


def train(config: RunConfig, environment: Environment) -> Outcome:
    """Train to the end, or to where it has to stop, and say how it went.

    Raises:
        Failure: the run could not even be looked at; there is no progress to tell.
    """
    world = World(rank=environment.rank, size=environment.processes)
    with ExitStack() as open_:
        if world.leads:
            open_.enter_context(logged_to(environment.volume / layout.TRAIN_LOG))
        reporter = open_.enter_context(Reporter(_endpoint(environment) if world.leads else None))
        join(world, gpus=config.gpus > 0)
        if world.leads:
            outputs.write_run_config(config, environment.volume)
        decided, why = with_checkpointing(config, environment.gradient_checkpointing)
        logger.info("%s", why)
        adjusted = with_micro_batch(decided, environment.micro_batch)
        return _told(new_run(adjusted, environment, reporter, world), environment)


def _told(run: Run, environment: Environment) -> Outcome:
    """Train, and say how it went. Only the leader has something to do after that."""
    if (ended := run.world.share(retention.ended_before(run.volume))) is not None:
        logger.info("this run ended before and only its output was kept; nothing to do")
        if run.world.leads:
            retention.keep_output(run.volume)
        return ended
    try:
        _fit(run, environment)
        if not run.world.leads:
            return outcome.done(Stage.TRAIN)
        if environment.publish_stage:
            return _left_to_publish(run)
        output = _publish(run, environment)
        return _ended(run, output, environment.volume_uri or str(environment.volume))
    except Failure as failure:
        return replace(outcome.failed(Stage.TRAIN, failure), progress=run.telemetry.progress())
    finally:
        if run.world.leads:
            run.store.discard_staged()


def new_run(config: RunConfig, environment: Environment, reporter: Reporter, world: World = ALONE) -> Run:
    """A run at step 0, with what Prepare found out.

    Raises:
        Failure: Prepare did not run.
    """
    stats = read_stats(environment.volume)
    return Run(
        config=config,
        stats=stats,
        volume=environment.volume,
        store=CheckpointStore(environment.volume, config.checkpoints.keep, JobDirectory.of(config, environment)),
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
    """Where the models of a run are loaded from; none where that can not be said, as with a run that has ended."""
    try:
        found = continued(config, environment, read_stats(environment.volume))
    except Failure:
        return []
    return [path for path in (found.model, found.teacher) if path is not None]


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Write the log into `path` as well, appended over attempts."""
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
    """Take the steps that remain, together with the other processes."""
    with run.watchdog.on_watch(lambda silence: _hung(run, environment, silence)), verdicts(run):
        choose(run.config, this_machine())
        point = _resume(run)
        run.report()
        if not run.telemetry.ended:
            with importing():
                from sftjob_trainer.fit import fit
            fit(run, _origin(run, environment, point), point)
        leave(run.world)


def _hung(run: Run, environment: Environment, silence: Silence) -> NoReturn:
    """End the process from the watchdog's thread: with its last word and the stacks, whatever the main thread does."""
    try:
        frame = main_thread_frame()
        step, size = run.telemetry.step, run.world.size
        who = f"the process of rank {run.world.rank}" if size > 1 else "the process"
        failure = Failure(
            Reason.HUNG,
            f"training hangs: nothing was heard of {who} for {silence.allowed_seconds:.0f} s after step {step} "
            f"({silence.activity}), many times what was usual; it is at {place_of(frame)}; "
            f"the stacks of all threads are in {layout.TRAIN_LOG} and in the Pod's log",
            blames_peer=size > 1 and waits_for_peers(frame, on_gpu=run.config.gpus > 0),
        )
        logger.error("%s", failure.message)
        ended = replace(outcome.failed(Stage.TRAIN, failure), progress=run.telemetry.progress())
        outcome.write_outcome(ended, environment.termination_log)
        write_stacks(run.volume / layout.TRAIN_LOG)
        if environment.launcher is not None:
            write_peers_stacks(environment.launcher)
    finally:
        os._exit(ExitCode.INTERNAL)


def _left_to_publish(run: Run) -> Outcome:
    """Leave the final checkpoint to stage publish, which needs no GPU for copying it."""
    with verdicts(run):
        final, metrics = _final(run)
        told = replace(run.telemetry.saved(), history=())
        publish.leave(publish.Unpublished(checkpoint=final.name, metrics=metrics, known=told), run.volume)
    run.doing(Activity.FINISHED)
    for line in summary(told, metrics, [f"left to stage publish, which makes it of {final.name}"]):
        logger.info("%s", line)
    return replace(outcome.done(Stage.TRAIN), progress=run.telemetry.progress(), unpublished=True)


def _final(run: Run) -> tuple[Path, dict[str, float]]:
    """The final checkpoint and its metrics."""
    run.doing(Activity.SAVING)
    run.take_up_verified(wait=True)
    final = outputs.final_checkpoint(run.store.complete, run.config, run.volume)
    return final, run.telemetry.metrics(saved_telemetry(final))


def _publish(run: Run, environment: Environment) -> Output:
    """Make the output of the final checkpoint, and take it where else it is wanted."""
    with verdicts(run):
        final, metrics = _final(run)
        made = Made(
            config=run.config,
            stats=run.stats,
            metrics=metrics,
            libraries=outcome.library_versions(),
        )
        output = publish.published(final, made, environment, run.report)
    run.doing(Activity.FINISHED)
    return output


def _origin(run: Run, environment: Environment, point: ResumePoint) -> Origin:
    """What to load. Weights of a checkpoint of our own come out of it, so another run's is for step 0 only."""
    find = origin if point.directory is None else continued
    return find(run.config, environment, run.stats)


def _ended(run: Run, output: Output, place: str) -> Outcome:
    """The outcome of a success, with nothing left on the volume, which people call `place`, that is not to be kept."""
    done = replace(outcome.done(Stage.TRAIN), progress=run.telemetry.progress(), output=output)
    if run.config.output.retain is not Retain.ALL:
        run.telemetry.checkpoints((), None)
        done = replace(done, progress=run.telemetry.progress())
        retention.remember(done, run.volume)
        retention.keep_output(run.volume)
        run.report()
    for line in summary(run.telemetry.saved(), output.metrics, publish.places(output, place)):
        logger.info("%s", line)
    return done


def saved_telemetry(checkpoint: Path) -> SavedTelemetry:
    """What was known when `checkpoint` was taken."""
    return from_json(SavedTelemetry, (checkpoint / SAVED_TELEMETRY).read_bytes(), ignore_unknown=True)


def _resume(run: Run) -> ResumePoint:
    """Find where to go on, and know what was known there. The leader looks for all."""
    point, run.store.complete = run.world.share(_opened(run) if run.world.leads else (NOWHERE, ()))
    run.pass_over(point.skipped)
    if point.directory is not None:
        logger.info("resuming from %s", point.directory.name)
        run.telemetry.resume(saved_telemetry(point.directory))
    run.tell_checkpoints()
    return point


def _opened(run: Run) -> tuple[ResumePoint, tuple[Checkpoint, ...]]:
    return run.store.open(), run.store.complete


def _endpoint(environment: Environment) -> Endpoint | None:
    if environment.progress_url is None:
        return None
    return Endpoint(url=environment.progress_url, ca=environment.progress_ca, token=environment.progress_token)

"""The Train stage: fine-tune on the prepared data, from the newest good checkpoint to the final output."""

import errno
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json
from sftjob_contract.config import RunConfig
from sftjob_contract.destinations import Retain
from sftjob_contract.names import Stage
from sftjob_contract.outcome import Outcome, Output
from sftjob_contract.progress import Activity, Checkpoint
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer import outcome, outputs, retention
from sftjob_trainer.checkpoints import NOWHERE, CheckpointStore, ResumePoint
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.reporter import Endpoint, Reporter
from sftjob_trainer.run import Run
from sftjob_trainer.sources import model_path
from sftjob_trainer.start import Origin, continued, origin
from sftjob_trainer.stop import StopRequest
from sftjob_trainer.telemetry import SAVED_TELEMETRY, SavedTelemetry, Telemetry
from sftjob_trainer.world import ALONE, World, is_lost_peer, join, leave

logger = logging.getLogger(__name__)

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FULL_BELOW_BYTES: Final = 16 << 20


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
        return _told(new_run(config, environment, reporter, world), environment)


def _told(run: Run, environment: Environment) -> Outcome:
    """Train, and say how it went. Only the leader has something to do after that."""
    if run.world.leads:
        outputs.write_run_config(run.config, run.volume)
    if (ended := run.world.share(retention.ended_before(run.volume))) is not None:
        logger.info("this run ended before and only its output was kept; nothing to do")
        if run.world.leads:
            retention.keep_output(run.volume)
        return ended
    try:
        _fit(run, environment)
        if not run.world.leads:
            return outcome.done(Stage.TRAIN)
        return _ended(run, _publish(run, environment))
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
        store=CheckpointStore(environment.volume, config.checkpoints.keep),
        telemetry=Telemetry(
            attempt=environment.attempt,
            max_steps=stats.max_steps,
            clock=time.monotonic,
            now=lambda: datetime.now(UTC),
            early_stopping=config.training.early_stopping,
        ),
        reporter=reporter,
        stop=StopRequest(world),
        world=world,
    )


def read_stats(volume: Path) -> PreparedStats:
    """What Prepare left on the volume.

    Raises:
        Failure: it did not, so there is nothing to train on.
    """
    path = volume / layout.PREPARED_STATS
    try:
        return from_json(PreparedStats, path.read_bytes(), ignore_unknown=True)
    except (OSError, ContractError) as error:
        raise Failure(
            Reason.INTERNAL_ERROR, f"the prepared data set can not be read, the Prepare stage must run first: {error}"
        ) from error


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Write the log into `path` as well, appended over attempts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _fit(run: Run, environment: Environment) -> None:
    """Take the steps that remain, together with the other processes."""
    point = _resume(run)
    run.report()
    with _verdicts(run):
        if not run.telemetry.ended:
            from sftjob_trainer.fit import fit

            fit(run, _origin(run, environment, point), point)
    leave(run.world)


def _publish(run: Run, environment: Environment) -> Output:
    """Make the output of the final checkpoint."""
    with _verdicts(run):
        run.doing(Activity.SAVING)
        final = outputs.final_checkpoint(run.store.complete, run.config, run.volume)
        output = outputs.publish(final, run.config, run.volume, run.telemetry.metrics(saved_telemetry(final)))
        if run.config.output.merge_adapter:
            from sftjob_trainer.merge import merge

            merge(model_path(run.config, environment, run.stats), run.config, run.volume)
    run.doing(Activity.FINISHED)
    return output


def _origin(run: Run, environment: Environment, point: ResumePoint) -> Origin:
    """What to load. Weights of a checkpoint of our own come out of it, so another run's is for step 0 only."""
    find = origin if point.directory is None else continued
    return find(run.config, environment, run.stats)


def _ended(run: Run, output: Output) -> Outcome:
    """The outcome of a success, with nothing left on the volume that is not to be kept."""
    done = replace(outcome.done(Stage.TRAIN), progress=run.telemetry.progress(), output=output)
    if run.config.output.retain is Retain.ALL:
        return done
    run.telemetry.checkpoints((), None)
    done = replace(done, progress=run.telemetry.progress())
    retention.remember(done, run.volume)
    retention.keep_output(run.volume)
    run.report()
    return done


def saved_telemetry(checkpoint: Path) -> SavedTelemetry:
    """What was known when `checkpoint` was taken."""
    return from_json(SavedTelemetry, (checkpoint / SAVED_TELEMETRY).read_bytes(), ignore_unknown=True)


def _resume(run: Run) -> ResumePoint:
    """Find where to go on, and know what was known there. The leader looks for all."""
    point, run.store.complete = run.world.share(_opened(run) if run.world.leads else (NOWHERE, ()))
    for skipped in point.skipped:
        logger.warning("%s is passed over: %s", skipped.path, skipped.why)
    if point.directory is not None:
        logger.info("resuming from %s", point.directory.name)
        run.telemetry.resume(saved_telemetry(point.directory))
    run.telemetry.skipped(point.skipped)
    run.telemetry.checkpoints(run.store.complete, run.store.best_step)
    return point


def _opened(run: Run) -> tuple[ResumePoint, tuple[Checkpoint, ...]]:
    return run.store.open(), run.store.complete


@contextmanager
def _verdicts(run: Run) -> Iterator[None]:
    """Turn what libraries raise into a Failure where there is something to tell the user."""
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        failure = verdict(error, run)
        if failure is None:
            raise
        raise failure from error


def verdict(error: Exception, run: Run) -> Failure | None:
    """What `error` means for the user; None when it is a fault of ours."""
    import torch

    step = run.telemetry.step
    training = run.config.training
    if isinstance(error, torch.OutOfMemoryError):
        return Failure(
            Reason.GPU_OUT_OF_MEMORY,
            f"the GPU ran out of memory after step {step}, with perDeviceBatchSize {training.per_device_batch_size} "
            f"and maxLength {training.max_length}; lower one of them or set training.gradientCheckpointing",
        )
    if volume_is_full(error, run.volume, saving=run.telemetry.activity is Activity.SAVING):
        saved = f"{run.store.complete[-1].path} is intact" if run.store.complete else "no checkpoint was complete yet"
        return Failure(
            Reason.CONFIG_INVALID,
            f"the volume is full: saving after step {step} failed ({saved}); "
            "give storage.size more room, or keep fewer checkpoints with checkpoints.keep",
        )
    if run.world.size > 1 and is_lost_peer(error):
        return Failure(
            Reason.INTERNAL_ERROR,
            f"after step {step} another process of this run ended or could no longer be reached: {error}",
        )
    return None


def volume_is_full(error: Exception, volume: Path, *, saving: bool) -> bool:
    """Whether `error` comes from writing to a volume that has no room left.

    Neither safetensors nor torch raises an OSError: the first gives its number as text, the second does not say what
    went wrong, so that only the volume itself can tell.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    if any(f"(os error {number})" in str(error) for number in _FULL):
        return True
    return saving and isinstance(error, RuntimeError) and shutil.disk_usage(volume).free < _FULL_BELOW_BYTES


def _endpoint(environment: Environment) -> Endpoint | None:
    if environment.progress_url is None:
        return None
    return Endpoint(url=environment.progress_url, ca=environment.progress_ca, token=environment.progress_token)

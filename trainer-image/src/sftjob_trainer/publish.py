"""The Publish stage: the output of the final checkpoint, merged, pushed and uploaded where that is configured."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json, to_json
from sftjob_contract.config import RunConfig
from sftjob_contract.destinations import Retain
from sftjob_contract.names import Stage
from sftjob_contract.outcome import Outcome, Output
from sftjob_contract.reasons import Reason
from sftjob_trainer import outcome, outputs, retention
from sftjob_trainer.card import Made
from sftjob_trainer.checkpoints import BrokenCheckpointError, verify
from sftjob_trainer.delivery import deliver
from sftjob_trainer.durable import write_atomically
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.prepared import read_stats
from sftjob_trainer.retrying import Patience
from sftjob_trainer.sources import model_path
from sftjob_trainer.summary import summary
from sftjob_trainer.telemetry import SavedTelemetry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Unpublished:
    """What Train leaves to this stage: the name of the final checkpoint, its metrics, and what is known of the run."""

    checkpoint: str
    metrics: Mapping[str, float] = field(hash=False)
    known: SavedTelemetry


def leave(found: Unpublished, volume: Path) -> None:
    """Leave `found` on the volume, among the prepared data, so that it never speaks for another run."""
    write_atomically(volume / layout.PREPARED_UNPUBLISHED, to_json(found))


def publish(config: RunConfig, environment: Environment) -> Outcome:
    """Make the output and take it where it is wanted. Doing the same thing again sends nothing again.

    Raises:
        Failure: training is not complete, or the output could not be made or copied.
    """
    volume = environment.volume
    if (ended := retention.ended_before(volume)) is not None:
        logger.info("this run ended before and only its output was kept; nothing to do")
        retention.keep_output(volume)
        return replace(ended, stage=Stage.PUBLISH)
    left = _left(volume)
    stats = read_stats(volume)
    made = Made(config=config, stats=stats, metrics=left.metrics, libraries=outcome.library_versions())
    output = published(_checkpoint(left, volume), made, environment, _nobody_waits)
    done = replace(outcome.done(Stage.PUBLISH), output=output)
    if config.output.retain is not Retain.ALL:
        retention.remember(done, volume)
        retention.keep_output(volume)
    for line in summary(left.known, output.metrics, places(output, environment.volume_uri or str(volume))):
        logger.info("%s", line)
    return done


def published(checkpoint: Path, made: Made, environment: Environment, alive: Callable[[], None]) -> Output:
    """The output of `checkpoint`, in all the places where it is wanted; `alive` is called every now and then."""
    config, volume = made.config, environment.volume
    base = model_path(config, environment, made.stats)
    output = outputs.publish(checkpoint, made, volume, base)
    if config.output.merge_adapter:
        from sftjob_trainer.merge import merge

        output = replace(output, metrics={**output.metrics, **merge(base, made, volume)})
    return replace(output, uploaded=deliver(config, environment, output.path, Patience(), alive))


def places(output: Output, volume: str) -> list[str]:
    """Where the output is; `volume` is the root of its path."""
    return [f"{volume.rstrip('/')}/{output.path}", *output.uploaded]


def _left(volume: Path) -> Unpublished:
    try:
        return from_json(Unpublished, (volume / layout.PREPARED_UNPUBLISHED).read_bytes(), ignore_unknown=True)
    except (OSError, ContractError) as error:
        message = f"there is nothing to publish, the Train stage must end first: {error}"
        raise Failure(Reason.INTERNAL_ERROR, message) from error


def _checkpoint(left: Unpublished, volume: Path) -> Path:
    directory = volume / layout.CHECKPOINTS / left.checkpoint
    try:
        verify(directory)
    except BrokenCheckpointError as broken:
        message = f"the final checkpoint {left.checkpoint} can not be published: {broken}"
        raise Failure(Reason.INTERNAL_ERROR, message) from broken
    return directory


def _nobody_waits() -> None:
    """No trainer's reports are expected of this stage."""

"""The Publish stage: write the output of the final checkpoint, and merge, push and upload it as configured."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json, to_json
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome, Output
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.destinations import Retain
from sftjob_trainer.output import export, retention
from sftjob_trainer.output.deliver import deliver
from sftjob_trainer.output.model_card import CardContent
from sftjob_trainer.output.prepared import read_stats
from sftjob_trainer.process import termination
from sftjob_trainer.process.atomic_files import write_atomically
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.retry import RetryPolicy
from sftjob_trainer.reporting.summary import summary
from sftjob_trainer.reporting.telemetry import SavedTelemetry
from sftjob_trainer.run.checkpoints import BrokenCheckpointError, verify
from sftjob_trainer.sources.resolve import model_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PendingOutput:
    """Input of this stage from Train: the name of the final checkpoint, its metrics, and the state of the run."""

    checkpoint: str
    metrics: Mapping[str, float] = field(hash=False)
    known: SavedTelemetry


def save_pending(pending: PendingOutput, volume: Path) -> None:
    """Save `pending` on the volume, among the prepared data, so that it never applies to another run."""
    write_atomically(volume / layout.PREPARED_UNPUBLISHED, to_json(pending))


def publish(config: RunConfig, environment: Environment) -> Outcome:
    """Write the output and copy it to its destinations. A repeated run sends nothing again.

    Raises:
        StageError: training is not complete, or the output could not be written or copied.
    """
    volume = environment.volume
    if (ended := retention.read_outcome(volume)) is not None:
        logger.info("this run ended before and only its output was kept; nothing to do")
        retention.keep_output(volume)
        return replace(ended, stage=Stage.PUBLISH)
    pending = _read_pending(volume)
    stats = read_stats(volume)
    content = CardContent(config=config, stats=stats, metrics=pending.metrics, libraries=termination.library_versions())
    output = publish_output(_checkpoint(pending, volume), content, environment, _no_heartbeat)
    succeeded = replace(termination.succeeded(Stage.PUBLISH), output=output)
    if config.output.retain is not Retain.ALL:
        retention.save_outcome(succeeded, volume)
        retention.keep_output(volume)
    for line in summary(pending.known, output.metrics, output_locations(output, environment.volume_uri or str(volume))):
        logger.info("%s", line)
    return succeeded


def publish_output(
    checkpoint: Path, content: CardContent, environment: Environment, heartbeat: Callable[[], None]
) -> Output:
    """Publish `checkpoint` to all configured destinations; `heartbeat` is called from time to time."""
    config, volume = content.config, environment.volume
    base = model_path(config, environment, content.stats)
    output = export.publish(checkpoint, content, volume, base)
    if config.output.merge_adapter:
        from sftjob_trainer.output.merge import merge

        output = replace(output, metrics={**output.metrics, **merge(base, content, volume)})
    return replace(output, uploaded=deliver(config, environment, output.path, RetryPolicy(), heartbeat))


def output_locations(output: Output, volume: str) -> list[str]:
    """Locations of the output; `volume` is the root of its path."""
    return [f"{volume.rstrip('/')}/{output.path}", *output.uploaded]


def _read_pending(volume: Path) -> PendingOutput:
    try:
        return from_json(PendingOutput, (volume / layout.PREPARED_UNPUBLISHED).read_bytes(), ignore_unknown=True)
    except (OSError, ContractError) as error:
        message = f"there is nothing to publish, the Train stage must end first: {error}"
        raise StageError(Reason.INTERNAL_ERROR, message) from error


def _checkpoint(pending: PendingOutput, volume: Path) -> Path:
    directory = volume / layout.CHECKPOINTS / pending.checkpoint
    try:
        verify(directory)
    except BrokenCheckpointError as broken:
        message = f"the final checkpoint {pending.checkpoint} cannot be published: {broken}"
        raise StageError(Reason.INTERNAL_ERROR, message) from broken
    return directory


def _no_heartbeat() -> None:
    """No trainer reports are expected from this stage."""

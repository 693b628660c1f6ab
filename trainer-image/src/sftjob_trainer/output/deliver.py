"""Copy the finished output to the destinations that the run config names besides the job's volume."""

from collections.abc import Callable

from sftjob_contract.run.config import RunConfig
from sftjob_trainer.output.hub_push import push
from sftjob_trainer.output.upload import upload
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.retry import RetryPolicy


def deliver(
    config: RunConfig, environment: Environment, location: str, retry_policy: RetryPolicy, heartbeat: Callable[[], None]
) -> tuple[str, ...]:
    """Copy the complete output at `location` on the volume to the hub and the object store; returns their URIs.

    `heartbeat` is called from time to time, because copying a large model takes long.

    Raises:
        StageError: copying failed. Nothing is lost: the next attempt only has to copy.
    """
    wanted = config.output
    done: list[str] = []
    try:
        if wanted.hub is not None:
            done.append(push(config, wanted.hub, environment, retry_policy, heartbeat))
        if wanted.upload_uri is not None:
            done.append(upload(wanted.upload_uri, environment.volume, retry_policy, heartbeat))
    except StageError as failure:
        kept = f"training is complete and its output is on the job's volume, at {location}"
        raise StageError(failure.reason, f"{failure.message}; {kept}") from failure
    return tuple(done)

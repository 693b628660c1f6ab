"""The finished output, taken to where the run config wants it besides the job's volume."""

from collections.abc import Callable

from sftjob_contract.config import RunConfig
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.hub_push import push
from sftjob_trainer.retrying import Patience
from sftjob_trainer.upload import upload


def deliver(
    config: RunConfig, environment: Environment, place: str, patience: Patience, alive: Callable[[], None]
) -> tuple[str, ...]:
    """Copy the output, which lies complete at `place` on the volume, to the hub and the object store; their URIs.

    `alive` is called every now and then: a large model takes its time.

    Raises:
        Failure: it could not be copied. Nothing of it is lost: the next attempt has only this left to do.
    """
    wanted = config.output
    done: list[str] = []
    try:
        if wanted.hub is not None:
            done.append(push(config, wanted.hub, environment, patience, alive))
        if wanted.upload_uri is not None:
            done.append(upload(wanted.upload_uri, environment.volume, patience, alive))
    except Failure as failure:
        kept = f"the training is complete and its output lies on the job's volume, at {place}"
        raise Failure(failure.reason, f"{failure.message}; {kept}") from failure
    return tuple(done)

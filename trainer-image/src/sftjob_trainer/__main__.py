"""`python -m sftjob_trainer prepare|train|publish`: run one stage, and leave its outcome however it ends."""

import atexit
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from sftjob_contract.config import RunConfig
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.outcome import Outcome
from sftjob_contract.reasons import Reason
from sftjob_trainer import outcome
from sftjob_trainer.configuration import read_delivered_config, with_files
from sftjob_trainer.disk import full_volume_is_told
from sftjob_trainer.environment import ENV_LAUNCHED, Environment, forget_world, read_environment, termination_log
from sftjob_trainer.failure import Failure
from sftjob_trainer.launch import is_needed, launch
from sftjob_trainer.libraries import (
    hide_bitsandbytes,
    hide_wandb,
    import_transformers_without_torch,
    library_variables,
)
from sftjob_trainer.ownership import JobDirectory
from sftjob_trainer.permissions import denied_access_is_told
from sftjob_trainer.redaction import Redacted, redact, redact_streams, secrets_in

logger = logging.getLogger("sftjob_trainer")
_OTHERS_MAY_READ: Final = 0o022
"""Umask: whoever mounts the volume next, under whatever user, reads logs and results."""


def run(stage: Stage, environ: MutableMapping[str, str]) -> Outcome:
    """Run `stage` and say how it ended; nothing is raised. Everything heavy is imported after the config is checked.

    `environ` is the process's own: what libraries are to find there is added.
    """
    try:
        forget_world(environ)
        environment = read_environment(environ)
        config = read_delivered_config(environment.config_path, environment.config_hash)
        config = with_files(config, environment.files)
        if stage is Stage.TRAIN and is_needed(config, environment):
            return launch(config, environment, environ)
        environ.update(library_variables(stage, config, environment.cache))
        hide_wandb(config, leads=stage is Stage.TRAIN and environment.rank == 0)
        return _run(stage, config, environment)
    except Exception as error:  # noqa: BLE001 -- the verdict names it
        return _failed(stage, error)


def main() -> NoReturn:
    """The process: sys.argv names the stage, the environment says the rest, the exit code is the verdict."""
    os.umask(_OTHERS_MAY_READ)
    atexit.register(gc.freeze)  # Python ends by searching all libraries for garbage several times, which takes seconds
    secrets = secrets_in(os.environ)
    redact_streams(secrets)
    _log_to_stdout(secrets)
    stage = _stage(sys.argv[1:])
    log = termination_log(os.environ)
    _stop_on_signal(stage, log)
    ended = run(stage, os.environ)
    _leave(ended, log, secrets)
    sys.exit(ended.exit_code)


def _run(stage: Stage, config: RunConfig, environment: Environment) -> Outcome:
    """Do the work of a stage. Of Prepare, also a failure has what was moved aside."""
    directory = JobDirectory.of(config, environment)
    if stage is not Stage.PREPARE:
        return _work(stage, config, environment, directory)
    try:
        ended = _work(stage, config, environment, directory)
    except Exception as error:  # noqa: BLE001 -- the verdict names it
        ended = _failed(stage, error)
    return replace(ended, moved_aside=directory.moved_aside())


def _work(stage: Stage, config: RunConfig, environment: Environment, directory: JobDirectory) -> Outcome:
    full = full_volume_is_told(stage, environment.volume, environment.volume_uri)
    with full, denied_access_is_told(environment.volume):
        if stage is not Stage.PREPARE:
            directory.check()
            from sftjob_trainer.publish import publish
            from sftjob_trainer.train import model_directories, train

            hide_bitsandbytes(config, model_directories(config, environment))
            return train(config, environment) if stage is Stage.TRAIN else publish(config, environment)
        directory.claim(config.existing_content)
        if not config.model.trust_remote_code:
            import_transformers_without_torch()
        from sftjob_trainer.prepare import prepare

        return prepare(config, environment)


def _failed(stage: Stage, error: Exception) -> Outcome:
    if isinstance(error, Failure):
        return outcome.failed(stage, error)
    if isinstance(error, MemoryError):
        logger.error("out of memory", exc_info=error)
        message = f"{stage} ran out of memory; raise resources.memory"
        return outcome.failed(stage, Failure(Reason.HOST_OUT_OF_MEMORY, message))
    logger.error("unexpected", exc_info=error)
    return outcome.failed(stage, _unexpected(stage, error))


def _unexpected(stage: Stage, error: Exception) -> Failure:
    message = f"{stage} ended by an unexpected {type(error).__name__}: {error}"
    return Failure(Reason.INTERNAL_ERROR, message, fault=fault_of(error))


def fault_of(error: BaseException) -> str:
    """Type and innermost place of an error: `TYPE at FILE:LINE in FUNCTION`."""
    stack = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(stack[-1].filename).name}:{stack[-1].lineno} in {stack[-1].name}" if stack else ""
    return f"{type(error).__name__}{place}"


def _stage(arguments: Sequence[str]) -> Stage:
    if len(arguments) == 1 and arguments[0] in list(Stage):
        return Stage(arguments[0])
    sys.stderr.write(f"usage: python -m sftjob_trainer {'|'.join(Stage)}\n")
    sys.exit(ExitCode.INVALID)


def _log_to_stdout(secrets: Mapping[str, str]) -> None:
    """Of several processes the first tells what happens; the others speak up only when something is wrong."""
    rank = os.environ.get("RANK", "0") if os.environ.get(ENV_LAUNCHED) else "0"
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Redacted(secrets, "%(message)s" if rank == "0" else f"[rank {rank}] %(message)s"))
    logging.getLogger().addHandler(handler)
    logger.setLevel(logging.INFO if rank == "0" else logging.WARNING)


def _stop_on_signal(stage: Stage, log: Path | None) -> None:
    """End at once when asked to. Whatever a stage leaves on the volume is whole or absent at any moment.

    Training takes the signal over as soon as it has something to save.
    """

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        failure = Failure(Reason.INTERRUPTED, f"{stage} was asked to stop ({signal.Signals(number).name})")
        outcome.write_outcome(outcome.failed(stage, failure), log)
        os.write(sys.stderr.fileno(), f"{failure.message}\n".encode())
        os._exit(failure.exit_code)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _leave(ended: Outcome, log: Path | None, secrets: Mapping[str, str]) -> None:
    """Write the outcome, and for a person the sentence; one of several processes leaves that to who started it."""
    if ended.message is not None:
        ended = replace(ended, message=redact(ended.message, secrets))
    if ended.message is not None and not os.environ.get(ENV_LAUNCHED):
        sys.stderr.write(f"{ended.stage} failed: {ended.reason}: {ended.message}\n")
    outcome.write_outcome(ended, log)


if __name__ == "__main__":
    main()

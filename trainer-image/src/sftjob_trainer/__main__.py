"""`python -m sftjob_trainer prepare|train|publish`: run one stage and write its outcome, however it ends."""

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

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.distributed.launch import launch, needs_launcher
from sftjob_trainer.preflight.run_config import read_delivered_config, with_files
from sftjob_trainer.process import termination
from sftjob_trainer.process.disk import convert_disk_full_errors
from sftjob_trainer.process.environment import (
    ENV_LAUNCHED,
    Environment,
    read_environment,
    remove_distributed_variables,
    termination_log,
)
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.libraries import (
    hide_bitsandbytes,
    hide_torchao,
    hide_wandb,
    import_transformers_without_torch,
    library_variables,
)
from sftjob_trainer.process.ownership import JobDirectory
from sftjob_trainer.process.permissions import convert_permission_errors
from sftjob_trainer.process.redaction import Redacted, redact, redact_streams, secrets_in

logger = logging.getLogger("sftjob_trainer")
_UMASK: Final = 0o022
"""Umask: later users of the volume, under any UID, can read logs and results."""


def run(stage: Stage, environ: MutableMapping[str, str]) -> Outcome:
    """Run `stage` and return its outcome; never raises. Heavy imports happen only after the config is checked.

    `environ` is the process's own environment. The variables that libraries need are added to it.
    """
    try:
        remove_distributed_variables(environ)
        environment = read_environment(environ)
        config = read_delivered_config(environment.config_path, environment.config_hash)
        config = with_files(config, environment.files)
        if stage is Stage.TRAIN and needs_launcher(config, environment):
            return launch(config, environment, environ)
        environ.update(library_variables(stage, config, environment.cache))
        hide_wandb(config, is_leader=stage is Stage.TRAIN and environment.rank == 0)
        return _run_in_directory(stage, config, environment)
    except Exception as error:  # noqa: BLE001 -- the verdict names it
        return _failed_outcome(stage, error)


def main() -> NoReturn:
    """Entry point: sys.argv names the stage, the environment configures it, and the exit code is the verdict."""
    os.umask(_UMASK)
    atexit.register(gc.freeze)  # at exit Python searches all libraries for garbage several times, which takes seconds
    secrets = secrets_in(os.environ)
    redact_streams(secrets)
    _log_to_stdout(secrets)
    stage = _stage(sys.argv[1:])
    log = termination_log(os.environ)
    _stop_on_signal(stage, log)
    outcome = run(stage, os.environ)
    _report_outcome(outcome, log, secrets)
    sys.exit(outcome.exit_code)


def _run_in_directory(stage: Stage, config: RunConfig, environment: Environment) -> Outcome:
    """Run the work of a stage. A failed Prepare also reports what was moved aside."""
    directory = JobDirectory.for_run(config, environment)
    if stage is not Stage.PREPARE:
        return _run_stage(stage, config, environment, directory)
    try:
        outcome = _run_stage(stage, config, environment, directory)
    except Exception as error:  # noqa: BLE001 -- the verdict names it
        outcome = _failed_outcome(stage, error)
    return replace(outcome, moved_aside=directory.moved_aside())


def _run_stage(stage: Stage, config: RunConfig, environment: Environment, directory: JobDirectory) -> Outcome:
    full = convert_disk_full_errors(stage, environment.volume, environment.volume_uri)
    with full, convert_permission_errors(environment.volume):
        if stage is not Stage.PREPARE:
            directory.check()
            from sftjob_trainer.publish import publish
            from sftjob_trainer.train import model_directories, train

            models = model_directories(config, environment)
            hide_bitsandbytes(config, models)
            hide_torchao(config, models)
            return train(config, environment) if stage is Stage.TRAIN else publish(config, environment)
        directory.claim(config.existing_content)
        if not config.model.trust_remote_code:
            import_transformers_without_torch()
        from sftjob_trainer.prepare import prepare

        return prepare(config, environment)


def _failed_outcome(stage: Stage, error: Exception) -> Outcome:
    if isinstance(error, StageError):
        return termination.failed(stage, error)
    if isinstance(error, MemoryError):
        logger.error("out of memory", exc_info=error)
        message = f"{stage} ran out of memory; raise resources.memory"
        return termination.failed(stage, StageError(Reason.HOST_OUT_OF_MEMORY, message))
    logger.error("unexpected", exc_info=error)
    return termination.failed(stage, _internal_error(stage, error))


def _internal_error(stage: Stage, error: Exception) -> StageError:
    message = f"{stage} ended by an unexpected {type(error).__name__}: {error}"
    return StageError(Reason.INTERNAL_ERROR, message, fault=describe_fault(error))


def describe_fault(error: BaseException) -> str:
    """Type and innermost location of an error: `TYPE at FILE:LINE in FUNCTION`."""
    stack = traceback.extract_tb(error.__traceback__)
    location = f" at {Path(stack[-1].filename).name}:{stack[-1].lineno} in {stack[-1].name}" if stack else ""
    return f"{type(error).__name__}{location}"


def _stage(arguments: Sequence[str]) -> Stage:
    if len(arguments) == 1 and arguments[0] in list(Stage):
        return Stage(arguments[0])
    sys.stderr.write(f"usage: python -m sftjob_trainer {'|'.join(Stage)}\n")
    sys.exit(ExitCode.INVALID)


def _log_to_stdout(secrets: Mapping[str, str]) -> None:
    """Log to stdout. With several processes, only the first logs progress; the others log warnings and errors only."""
    rank = os.environ.get("RANK", "0") if os.environ.get(ENV_LAUNCHED) else "0"
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Redacted(secrets, "%(message)s" if rank == "0" else f"[rank {rank}] %(message)s"))
    logging.getLogger().addHandler(handler)
    logger.setLevel(logging.INFO if rank == "0" else logging.WARNING)


def _stop_on_signal(stage: Stage, log: Path | None) -> None:
    """End at once on SIGTERM. Everything that a stage writes to the volume is complete or absent at any moment.

    Training installs its own handler as soon as it has something to save.
    """

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        failure = StageError(Reason.INTERRUPTED, f"{stage} was stopped ({signal.Signals(number).name})")
        termination.write_outcome(termination.failed(stage, failure), log)
        os.write(sys.stderr.fileno(), f"{failure.message}\n".encode())
        os._exit(failure.exit_code)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _report_outcome(outcome: Outcome, log: Path | None, secrets: Mapping[str, str]) -> None:
    """Write the outcome, and its message to stderr; with several processes, only the launcher writes the message."""
    if outcome.message is not None:
        outcome = replace(outcome, message=redact(outcome.message, secrets))
    if outcome.message is not None and not os.environ.get(ENV_LAUNCHED):
        sys.stderr.write(f"{outcome.stage} failed: {outcome.reason}: {outcome.message}\n")
    termination.write_outcome(outcome, log)


if __name__ == "__main__":
    main()

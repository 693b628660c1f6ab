"""The outcome of a stage, written to the termination log, where the kubelet reads it."""

import logging
from importlib import metadata
from pathlib import Path
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reports.outcome import OUTCOME_VERSION, Outcome, termination_message
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

_LIBRARIES: Final = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")


def succeeded(stage: Stage) -> Outcome:
    """The outcome of a successful stage; callers add their results with `dataclasses.replace`."""
    return Outcome(version=OUTCOME_VERSION, stage=stage, exit_code=ExitCode.DONE, libraries=library_versions())


def failed(stage: Stage, failure: StageError) -> Outcome:
    """The outcome of a stage that ended with `failure`."""
    return Outcome(
        version=OUTCOME_VERSION,
        stage=stage,
        exit_code=failure.exit_code,
        reason=failure.reason,
        message=failure.full_message,
        blames_peer=failure.blames_peer,
        fault=failure.fault,
    )


def library_versions() -> dict[str, str]:
    """Versions of the libraries that determine a run's result, for status.provenance; read without importing them."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def write_outcome(outcome: Outcome, path: Path | None) -> None:
    """Write `outcome` to the termination log in place: the file is a mount and cannot be replaced by a rename.

    A log that cannot be written must not change how the stage ends, so the error is only logged.
    """
    if path is None:
        return
    try:
        path.write_text(termination_message(outcome), encoding="utf-8")
    except OSError as error:
        logger.warning("the outcome could not be written to %s: %s", path, error)

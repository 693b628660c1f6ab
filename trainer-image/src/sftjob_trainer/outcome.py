"""The last word of a stage: an Outcome in the termination log, where the kubelet picks it up."""

import logging
from importlib import metadata
from pathlib import Path
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.outcome import OUTCOME_VERSION, Outcome, termination_message
from sftjob_trainer.failure import Failure

logger = logging.getLogger(__name__)

_LIBRARIES: Final = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")


def done(stage: Stage) -> Outcome:
    """The outcome of a stage that did its work; callers add what they have to tell with `dataclasses.replace`."""
    return Outcome(version=OUTCOME_VERSION, stage=stage, exit_code=ExitCode.DONE, libraries=library_versions())


def failed(stage: Stage, failure: Failure) -> Outcome:
    """The outcome of a stage that ended with `failure`."""
    return Outcome(
        version=OUTCOME_VERSION,
        stage=stage,
        exit_code=failure.exit_code,
        reason=failure.reason,
        message=failure.told,
        blames_peer=failure.blames_peer,
        fault=failure.fault,
    )


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a run's result, for status.provenance; read without importing them."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def write_outcome(outcome: Outcome, path: Path | None) -> None:
    """Write `outcome` to the termination log, in place: the file is a mount and can not be renamed over.

    A log that can not be written must not change how the stage ends, so it is only reported.
    """
    if path is None:
        return
    try:
        path.write_text(termination_message(outcome), encoding="utf-8")
    except OSError as error:
        logger.warning("the outcome could not be written to %s: %s", path, error)

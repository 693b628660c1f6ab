"""Validate a Pod's reports and convert them to the form of a status, or reject them.

Nothing else may influence a decision: a status write that the API server rejects, or an error in a decision, would
disable `suspend` and `deadlineSeconds` for as long as the report is known. The bounds are those of the status models.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar

from sftjob_contract.names import Stage
from sftjob_contract.reports.model_shape import (
    LINEAR_KINDS_LIMIT,
    LINEAR_NAME_LIMIT,
    UNFROZEN_KINDS_LIMIT,
    ModelShape,
)
from sftjob_contract.reports.outcome import Outcome, Output
from sftjob_contract.reports.progress import HISTORY_LIMIT, Checkpoint, Progress, SkippedCheckpoint
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.secrets import shown
from sftjob_operator.api import (
    CHECKPOINTS_LIMIT,
    COUNT_LIMIT,
    AttemptStatus,
    OutputStatus,
    ProvenanceStatus,
    fitting,
)
from sftjob_operator.reconcile.attempts.ledger import advanced
from sftjob_operator.reconcile.observe.times import parse_time, rfc3339
from sftjob_operator.reconcile.reports.status_parts import checkpoint_parts, history_part, progress_part
from sftjob_operator.reconcile.spec.plan_status import counts

MOST_ITEMS: Final = 32
"""Maximum metrics and libraries in a status."""
MOST_COPIES: Final = 2
"""Maximum locations of an output outside the volume."""
_MOST_SKIPPED: Final = 16
_LONGEST_PATH: Final = 512
"""Maximum characters. A URI in a status has room for it after the names of a claim and a job, of 253 each."""
_LONGEST_SECONDS: Final = 10**9
_LARGEST_PARAMETERS: Final = 10**15
_LARGEST_DIMENSION: Final = 10**9
_TOTALS: Final = frozenset({"parameters", "bias_parameters", "weight_bytes", "new_token_matrices"})
"""Sizes in a ModelShape that may be 0."""
_SHOWN_CHARACTERS: Final = 60
_LABEL: Final = re.compile("[A-Za-z0-9][A-Za-z0-9_./@-]{0,127}")
"""Name of a metric or library."""
_SHOWN_POD: Final = "pod"

V = TypeVar("V")


def usable_progress(progress: Progress) -> Progress:
    """Convert a report to the form of a status: times in UTC, newest entries of lists, texts without secrets.

    Raises:
        ValueError: a part is invalid; the text names it and the allowed values.
    """
    for name, seconds in _seconds(progress):
        if seconds is not None and not 0 <= seconds <= _LONGEST_SECONDS:
            raise ValueError(f"{name} must be between 0 and 10**9, not {seconds}")
    if progress.step > progress.max_steps:
        raise ValueError(f"step must be at most maxSteps {progress.max_steps}, not {progress.step}")
    _check_counts(("unverifiedCheckpoints", step) for step in progress.unverified_checkpoints)
    usable = replace(
        progress,
        time=_moment("time", progress.time).isoformat().replace("+00:00", "Z"),
        checkpoints=tuple(_checkpoint(each) for each in progress.checkpoints[-CHECKPOINTS_LIMIT:]),
        unverified_checkpoints=progress.unverified_checkpoints[:CHECKPOINTS_LIMIT],
        skipped_checkpoints=tuple(
            SkippedCheckpoint(path=shown(skipped.path), why=shown(skipped.why))
            for skipped in progress.skipped_checkpoints[:_MOST_SKIPPED]
        ),
        history=progress.history[-HISTORY_LIMIT:],
    )
    attempt = AttemptStatus(stage=Stage.TRAIN, number=1, pod=_SHOWN_POD)
    fitting("progress", lambda: progress_part(usable, None, devices=1))
    fitting("history", lambda: history_part(usable.history))
    fitting("checkpoints", lambda: checkpoint_parts(usable, str))
    fitting("progress", lambda: advanced(attempt, usable))
    _check_counts((("attempt", usable.attempt), ("bestStep", usable.best_step or 0)))
    return usable


def usable_outcome(outcome: Outcome) -> Outcome:
    """Convert a termination message to the form of a status, like `usable_progress`.

    Raises:
        ValueError: a part is invalid; the text names it and the allowed values.
    """
    usable = replace(
        outcome,
        message=None if outcome.message is None else shown(outcome.message),
        moved_aside=None if outcome.moved_aside is None else shown(outcome.moved_aside),
        progress=None if outcome.progress is None else usable_progress(outcome.progress),
        output=None if outcome.output is None else _output(outcome.output),
        libraries=None if outcome.libraries is None else _named(outcome.libraries),
    )
    fitting("libraries", lambda: ProvenanceStatus(libraries=dict(usable.libraries or {})))
    if outcome.prepared is not None:
        _check_prepared(outcome.prepared)
    return usable


def _check_prepared(prepared: PreparedStats) -> None:
    _check_counts((name, value) for name, value in vars(prepared).items() if isinstance(value, int))
    fitting("prepared", lambda: counts(prepared))
    if prepared.model_shape is not None:
        _check_shape(prepared.model_shape)


def _check_shape(shape: ModelShape) -> None:
    """Accept the size of a model if memory can be computed from it."""
    unfrozen = shape.unfrozen or ()
    for name, kinds, most in (
        ("linearLayers", shape.linear_layers, LINEAR_KINDS_LIMIT),
        ("unfrozen", unfrozen, UNFROZEN_KINDS_LIMIT),
    ):
        if len(kinds) > most:
            raise ValueError(f"{name} must have at most {most} entries")
    for part in (shape, *shape.linear_layers, *unfrozen):
        for name, size in vars(part).items():
            _check_size(name, size)


def _check_size(name: str, size: object) -> None:
    if isinstance(size, str) and len(size) > LINEAR_NAME_LIMIT:
        raise ValueError(f"modelShape: {name} must have at most {LINEAR_NAME_LIMIT} characters")
    if not isinstance(size, int) or isinstance(size, bool):
        return
    least, most = (0, _LARGEST_PARAMETERS) if name in _TOTALS else (1, _LARGEST_DIMENSION)
    if not least <= size <= most:
        raise ValueError(f"modelShape: {name} must be between {least} and {most}, not {size}")


def _output(output: Output) -> Output:
    for path in (output.path, *output.uploaded[:MOST_COPIES]):
        _check_path("output", path)
    metrics = _named(output.metrics)
    fitting("output", lambda: OutputStatus(uri=output.path, metrics=metrics))
    return replace(output, metrics=metrics, uploaded=output.uploaded[:MOST_COPIES])


def _named(items: Mapping[str, V]) -> dict[str, V]:
    """Keep the first MOST_ITEMS by name, without those that have an invalid name."""
    return {name: items[name] for name in sorted(filter(_LABEL.fullmatch, items))[:MOST_ITEMS]}


def _check_counts(named: Iterable[tuple[str, int]]) -> None:
    for name, count in named:
        if not 0 <= count <= COUNT_LIMIT:
            raise ValueError(f"{name} must be between 0 and 2**53, not {count}")


def _check_path(name: str, path: str) -> None:
    if len(path) > _LONGEST_PATH:
        raise ValueError(f"{name}: a path must have at most {_LONGEST_PATH} characters, not {len(path)}")
    if not path.isprintable() or ".." in path.split("/"):
        raise ValueError(f"{name}: {path[:_SHOWN_CHARACTERS]!r} is not a path on the volume")


def _checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    _check_path("checkpoints", checkpoint.path)
    return replace(checkpoint, time=rfc3339(_moment(f"time of {checkpoint.path}", checkpoint.time)))


def _moment(name: str, text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _seconds(progress: Progress) -> tuple[tuple[str, float | None], ...]:
    return (
        ("stepSeconds", progress.step_seconds),
        ("longestSaveSeconds", progress.longest_save_seconds),
        ("loadingSeconds", progress.loading_seconds),
        ("evaluatingSeconds", progress.evaluating_seconds),
        ("savingSeconds", progress.saving_seconds),
    )

"""Whether a trainer's report can be believed enough to be stored: the status must never be refused because of one."""

from collections.abc import Iterable, Iterator
from typing import Final

from sftjob_contract.outcome import Outcome
from sftjob_contract.progress import Checkpoint, Progress
from sftjob_operator.reconcile.times import parse_time

_LARGEST: Final = 2**53
_LONGEST_PATH: Final = 1024
_LONGEST_SECONDS: Final = 10**9
_SHOWN_CHARACTERS: Final = 60


def check_progress(progress: Progress) -> None:
    """Accept a report whose every part fits into a status.

    Raises:
        ValueError: a part does not; the text names it and what it must be.
    """
    _check_counts(_counts(progress))
    for name, seconds in _seconds(progress):
        _check_seconds(name, seconds)
    if progress.step > progress.max_steps:
        raise ValueError(f"step must be at most maxSteps {progress.max_steps}, not {progress.step}")
    for checkpoint in progress.checkpoints:
        _check_checkpoint(checkpoint)


def check_outcome(outcome: Outcome) -> None:
    """Accept a last word whose every part fits into a status.

    Raises:
        ValueError: a part does not; the text names it and what it must be.
    """
    if outcome.progress is not None:
        check_progress(outcome.progress)
    if outcome.prepared is not None:
        _check_counts((name, value) for name, value in vars(outcome.prepared).items() if isinstance(value, int))
    if outcome.output is not None:
        for path in (outcome.output.path, *outcome.output.uploaded):
            _check_path("output", path)


def _check_counts(counts: Iterable[tuple[str, int]]) -> None:
    for name, count in counts:
        if not 0 <= count <= _LARGEST:
            raise ValueError(f"{name} must be between 0 and 2**53, not {count}")


def _check_seconds(name: str, seconds: float | None) -> None:
    if seconds is not None and not 0 <= seconds <= _LONGEST_SECONDS:
        raise ValueError(f"{name} must be between 0 and 10**9, not {seconds}")


def _check_path(name: str, path: str) -> None:
    if not path.isprintable() or ".." in path.split("/"):
        raise ValueError(f"{name}: {path[:_SHOWN_CHARACTERS]!r} is no place on the volume")
    if len(path) > _LONGEST_PATH:
        raise ValueError(f"{name}: a path has {len(path)} characters, at most {_LONGEST_PATH} fit")


def _check_checkpoint(checkpoint: Checkpoint) -> None:
    _check_path("checkpoints", checkpoint.path)
    try:
        parse_time(checkpoint.time)
    except ValueError as error:
        raise ValueError(f"checkpoints: time of {checkpoint.path}: {error}") from error


def _counts(progress: Progress) -> Iterator[tuple[str, int]]:
    yield from (
        ("attempt", progress.attempt),
        ("step", progress.step),
        ("maxSteps", progress.max_steps),
        ("resumedFromStep", progress.resumed_from_step or 0),
        ("tokens", progress.tokens or 0),
        ("etaSeconds", progress.eta_seconds or 0),
        ("bestStep", progress.best_step or 0),
        ("peakMemoryBytes", progress.peak_memory_bytes or 0),
    )
    for point in progress.history:
        yield "history: step", point.step
    for checkpoint in progress.checkpoints:
        yield "checkpoints: step", checkpoint.step
        yield "checkpoints: bytes", checkpoint.bytes
    for step in progress.unverified_checkpoints:
        yield "unverifiedCheckpoints", step


def _seconds(progress: Progress) -> tuple[tuple[str, float | None], ...]:
    return (
        ("stepSeconds", progress.step_seconds),
        ("longestSaveSeconds", progress.longest_save_seconds),
        ("loadingSeconds", progress.loading_seconds),
        ("evaluatingSeconds", progress.evaluating_seconds),
        ("savingSeconds", progress.saving_seconds),
    )

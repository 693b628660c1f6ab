"""What a status may never do, whatever happens around it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

ANYTIME: Final = frozenset({"Queued", "Running", "Publishing", "Restarting", "Suspended", "Succeeded", "Failed"})
"""Phases that may follow any other but an end: a status write that was lost may have told what lay in between."""
FOLLOWS: Final[Mapping[str | None, frozenset[str]]] = {
    None: ANYTIME | {"Pending", "Preparing"},
    "Pending": ANYTIME | {"Preparing"},
    "Preparing": ANYTIME,
    "Queued": ANYTIME | {"Preparing"},
    "Running": ANYTIME,
    "Publishing": ANYTIME,
    "Restarting": ANYTIME | {"Preparing"},
    "Suspended": ANYTIME | {"Pending", "Preparing"},
    "Succeeded": frozenset(),
    "Failed": frozenset(),
}
"""Which phases may come next. What has trained never prepares for the first time again, and an end is the end."""


def illegal_transitions(phases: Sequence[str | None]) -> list[tuple[str | None, str | None]]:
    """Pairs of different phases in a row that may not follow each other."""
    pairs = [(before, after) for before, after in pairwise(phases) if before != after]
    return [(before, after) for before, after in pairs if after not in FOLLOWS[before]]


def shrunk_attempts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Attempts of the status `before` that `after` lacks, or tells of in another order; retention of 48 aside."""
    known, now = (
        [f"{attempt['stage']}-{attempt['number']}" for attempt in status.get("attempts", ())]
        for status in (before, after)
    )
    return [] if now[: len(known)] == known else known


def unheard_checkpoints(status: Mapping[str, Any], told: set[int]) -> list[int]:
    """Steps of checkpoints in a status that no trainer ever told of as complete."""
    return [entry["step"] for entry in status.get("checkpoints", ()) if entry["step"] not in told]

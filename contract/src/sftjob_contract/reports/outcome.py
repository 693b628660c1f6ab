"""The final message of a container, written to its termination log, so that it survives an operator restart."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sftjob_contract.codec import to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import TERMINATION_MESSAGE_LIMIT_BYTES, Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Progress
from sftjob_contract.reports.stats import PreparedStats

OUTCOME_VERSION: Final = 1
_SHORT_MESSAGE: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Output:
    """Result of a finished run: `path` of model or adapter relative to the volume, and final metrics.

    Metric names are camelCase (`evalLoss`, `initialEvalLoss`, `evalPerplexity`, `trainLoss`, `trainSeconds`; for a
    merged model `mergedEvalLoss`, on up to 64 held-out rows; if configured `evalBleu` from 0 to 100, `evalRouge1`,
    `evalRouge2`, `evalRougeL` and `evalExactMatch` from 0 to 1). `uploaded` lists the URIs that the output was copied
    to.
    """

    path: str
    metrics: Mapping[str, float]
    uploaded: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended. `reason` and `message` describe a failure; `message` is a sentence for the user.

    `blames_peer`: this process knows only that another process of the run is missing or does not answer. If that one
    left a termination message or an exit code, they explain more. `fault`: type and place of an unexpected error, such
    as `ValueError at model.py:7 in load`. Two attempts of one image that fail for the same cause have the same `fault`.
    `moved_aside`: a sentence with what any attempt of Prepare renamed for storage.existingContent: MoveAside, and its
    new name.

    `unpublished`: training is complete, and stage publish has yet to create the output from its final checkpoint. None:
    the trainer has no such stage and has published already, or there is nothing to publish.
    """

    version: int
    stage: Stage
    exit_code: ExitCode
    reason: Reason | None = None
    message: str | None = None
    prepared: PreparedStats | None = None
    progress: Progress | None = None
    output: Output | None = None
    libraries: Mapping[str, str] | None = None
    blames_peer: bool = False
    fault: str | None = None
    moved_aside: str | None = None
    unpublished: bool | None = None


def termination_message(outcome: Outcome) -> str:
    """Serialize `outcome` to JSON of at most TERMINATION_MESSAGE_LIMIT_BYTES; drop the least important parts first."""
    text = to_json(outcome)
    for smaller in _smaller(outcome):
        if len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES:
            break
        text = to_json(smaller)
    return text


def _smaller(outcome: Outcome) -> Iterator[Outcome]:
    """Return ever smaller versions: each lacks more than the one before."""
    if (progress := outcome.progress) is not None:
        few = {"checkpoints": progress.checkpoints[-3:], "skipped_checkpoints": progress.skipped_checkpoints[:1]}
        cuts: tuple[dict[str, Any], ...] = ({"history": progress.history[::3]}, {"history": ()}, few)
        for cut in cuts:
            progress = replace(progress, **cut)
            outcome = replace(outcome, progress=progress)
            yield outcome
    message = outcome.message
    outcome = replace(outcome, message=message[:_SHORT_MESSAGE] if message else None)
    yield outcome
    yield replace(outcome, progress=None, libraries=None)

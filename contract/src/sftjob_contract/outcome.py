"""The last word of a container: written to its termination log, so it survives an operator that was down."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sftjob_contract.codec import to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import TERMINATION_MESSAGE_LIMIT_BYTES, Stage
from sftjob_contract.progress import Progress
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats

OUTCOME_VERSION: Final = 1
_SHORT_MESSAGE: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a finished run leaves behind: `path` of model or adapter relative to the volume, and final metrics.

    Metric names are camelCase (`evalLoss`, `initialEvalLoss`, `evalPerplexity`, `trainLoss`, `trainSeconds`; of a
    merged model `mergedEvalLoss`, on up to 64 held-out rows; where asked for `evalBleu` from 0 to 100, `evalRouge1`,
    `evalRouge2`, `evalRougeL` and `evalExactMatch` from 0 to 1).
    `uploaded` are the URIs that it was copied to.
    """

    path: str
    metrics: Mapping[str, float]
    uploaded: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended. `reason` and `message` tell a failure; `message` is a sentence for the user.

    `blames_peer`: all that this process knows is that another one of the run is gone or does not answer. Where that one
    has a last word or an exit code of its own, it tells more.
    `fault`: type and place of an error that nobody expected, such as `ValueError at model.py:7 in load`: the same in
    two attempts of one image where the cause is the same.
    `moved_aside`: what any attempt of Prepare renamed for storage.existingContent: MoveAside, and its new name, in a
    sentence.

    `unpublished`: training is complete, and stage publish has yet to make the output of its final checkpoint. None: a
    trainer that knows no such stage has published already, or there was nothing to publish.
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
    """`outcome` as JSON of at most TERMINATION_MESSAGE_LIMIT_BYTES, the most dispensable parts left out first."""
    for smaller in (_whole, _shorter_history, _no_history, _few_checkpoints, _short_message, _bare):
        outcome = smaller(outcome)
        text = to_json(outcome)
        if len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES:
            break
    return text


def _whole(outcome: Outcome) -> Outcome:
    return outcome


def _shorter_history(outcome: Outcome) -> Outcome:
    if outcome.progress is None:
        return outcome
    return replace(outcome, progress=replace(outcome.progress, history=outcome.progress.history[::3]))


def _no_history(outcome: Outcome) -> Outcome:
    if outcome.progress is None:
        return outcome
    return replace(outcome, progress=replace(outcome.progress, history=()))


def _few_checkpoints(outcome: Outcome) -> Outcome:
    if outcome.progress is None:
        return outcome
    progress = outcome.progress
    return replace(
        outcome,
        progress=replace(
            progress,
            checkpoints=progress.checkpoints[-3:],
            skipped_checkpoints=progress.skipped_checkpoints[:1],
        ),
    )


def _short_message(outcome: Outcome) -> Outcome:
    message = outcome.message
    return replace(outcome, message=message[:_SHORT_MESSAGE] if message else None)


def _bare(outcome: Outcome) -> Outcome:
    return replace(outcome, progress=None, libraries=None)

"""A node that only simulates the life cycle of the operator's Pods: nothing runs, everything succeeds."""

import asyncio
import signal
from typing import Any, Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.layout import OUTPUT_MODEL
from sftjob_contract.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_STAGE, TOKEN_AUDIENCE, Stage
from sftjob_contract.reports.outcome import OUTCOME_VERSION, Outcome, Output, termination_message
from sftjob_contract.reports.stats import STATS_VERSION, PreparedStats
from sftjob_contract.run.config import DataFormat
from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, name_of, namespace_of, timestamp, uid_of
from sftjob_sandbox.cluster.store import Store
from sftjob_sandbox.node.status import ContainerView, PodView, Running, State, Terminated, pod_status

NODE: Final = "fake"
START_SECONDS: Final = {Stage.PREPARE: 5.0, Stage.TRAIN: 1.0}
"""From a Pod's creation to its container's start: scheduling, volume, image; the second Pod finds the image pulled."""
STUCK: Final = "stuck"
STEADY: Final = "steady"
RUN_SECONDS: Final = {Stage.PREPARE: 6.0, Stage.TRAIN: 3.0}
"""How long a Pod of each stage appears to run."""

_KILLED: Final = signal.SIGKILL
_SIGNAL_BASE: Final = 128
_OF_ANOTHER_POD: Final = (404, 409)
"""The store's errors for a Pod that is deleted, or replaced by another one."""
_TOKEN_SECONDS: Final = 3600
_STATS: Final = PreparedStats(
    version=STATS_VERSION,
    format=DataFormat.MESSAGES,
    rows=1000,
    train_rows=950,
    evaluation_rows=50,
    truncated_rows=0,
    sequences=950,
    evaluation_sequences=50,
    tokens=100_000,
    trained_tokens=60_000,
    steps_per_epoch=238,
    max_steps=714,
    dataset_fingerprint="0" * 64,
)
_WORDS: Final = {
    Stage.PREPARE: Outcome(version=OUTCOME_VERSION, stage=Stage.PREPARE, exit_code=ExitCode.DONE, prepared=_STATS),
    Stage.TRAIN: Outcome(
        version=OUTCOME_VERSION,
        stage=Stage.TRAIN,
        exit_code=ExitCode.DONE,
        output=Output(path=OUTPUT_MODEL, metrics={"initialEvalLoss": 6.5, "evalLoss": 3.5}),
    ),
}


async def play(store: Store, pace: float, *, mortal: bool = False, steady: bool = False) -> None:
    """Start every new Pod after a delay, run it for its time, and end it with exit code 0 and a valid outcome.

    `pace` scales all times: 1 is realistic, less is faster. `mortal`: first train attempts are killed instead.
    `steady`: train Pods run until they are deleted, as do those of jobs whose name begins with STEADY. Pods of jobs
    whose name begins with STUCK never start. Pods that already have a node are ignored.
    """
    async with asyncio.TaskGroup() as lives:
        async for change, pod in store.watch_from_start("pods"):
            job = pod["metadata"]["labels"][LABEL_JOB]
            stays = (steady or job.startswith(STEADY)) and pod["metadata"]["labels"][LABEL_STAGE] == Stage.TRAIN
            if change == "MODIFIED" and stays and _is_asked_to_stop(pod):
                _stop(store, pod)
            elif change == "ADDED" and not job.startswith(STUCK) and not pod["spec"].get("nodeName"):
                dies = mortal and _is_first_trainer(pod)
                lives.create_task(_live(store, pod, pace, _KILLED if dies else None, stays=stays))


async def project_tokens(store: Store, expected: int) -> dict[str, str]:
    """Wait until `expected` train Pods run; returns each one's progress token by job name."""
    tokens: dict[str, str] = {}
    async for _, pod in store.watch_from_start("pods"):
        labels = pod["metadata"]["labels"]
        if labels[LABEL_STAGE] == Stage.TRAIN and pod["status"].get("phase") == "Running":
            account = pod["spec"].get("serviceAccountName") or "default"
            tokens[labels[LABEL_JOB]] = store.issue_token(
                namespace_of(pod), account, audiences=[TOKEN_AUDIENCE], expiration_seconds=_TOKEN_SECONDS, pod=pod
            )
        if len(tokens) == expected:
            break
    return tokens


def _is_first_trainer(pod: Object) -> bool:
    labels = pod["metadata"]["labels"]
    return (labels[LABEL_STAGE], labels[LABEL_ATTEMPT]) == (Stage.TRAIN, "1")


def _is_asked_to_stop(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"] and pod["status"].get("phase") == "Running"


def _stop(store: Store, pod: Object) -> None:
    """End a running Pod like a trainer that saved before it stopped."""
    started = pod["status"]["startTime"]
    end = Terminated(
        exit_code=ExitCode.RETRY,
        reason="Error",
        message="",
        started_at=started,
        finished_at=timestamp(store.clock()),
    )
    _report(store, pod, end, started)
    store.finalize_pod(namespace_of(pod), name_of(pod), uid_of(pod))


async def _live(store: Store, pod: Object, pace: float, killed_by: int | None, *, stays: bool) -> None:
    """Simulate one Pod's life cycle, which ends early if the Pod is deleted meanwhile."""
    try:
        await _run(store, pod, pace, killed_by, stays=stays)
    except ApiError as error:
        if error.code not in _OF_ANOTHER_POD:
            raise


async def _run(store: Store, pod: Object, pace: float, killed_by: int | None, *, stays: bool) -> None:
    stage = Stage(pod["metadata"]["labels"][LABEL_STAGE])
    await asyncio.sleep(START_SECONDS[stage] * pace)
    bound = store.bind_pod(namespace_of(pod), name_of(pod), uid_of(pod), NODE)
    started = timestamp(store.clock())
    running = _report(store, bound, Running(started), started)
    if stays:
        return
    await asyncio.sleep(RUN_SECONDS[stage] * pace)
    end = Terminated(
        exit_code=ExitCode.DONE if killed_by is None else _SIGNAL_BASE + killed_by,
        reason="Completed" if killed_by is None else "Error",
        message=termination_message(_WORDS[stage]) if killed_by is None else "",
        started_at=started,
        finished_at=timestamp(store.clock()),
    )
    _report(store, running, end, started)


def _report(store: Store, pod: Object, state: State, started: str) -> Object:
    spec: dict[str, Any] = pod["spec"]["containers"][0]
    container = ContainerView(spec=spec, state=state)
    view = PodView(
        pod=pod,
        containers=(container,),
        address="127.0.0.1",
        start_time=started,
        set_up=True,
    )
    status = pod_status(view, timestamp(store.clock()))
    return store.update_status("pods", namespace_of(pod), name_of(pod), uid_of(pod), status)

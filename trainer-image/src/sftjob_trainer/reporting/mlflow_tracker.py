"""A run on MLflow, on a tracking server or in files on the volume. Use it in a separate thread."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.codec import encode
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.reporting.tracker import FinalStatus

JOB_TAG: Final = "sftjob.uid"
"""Tag with the job's UID, by which a resumed attempt finds the run."""
_PARAMETERS_PER_REQUEST: Final = 100
_VALUE_CHARACTERS: Final = 500
"""Limits of MLflow's REST API (log-batch); the second is that of older servers."""
_STATUS: Final = {FinalStatus.FINISHED: "FINISHED", FinalStatus.INTERRUPTED: "KILLED", FinalStatus.FAILED: "FAILED"}


class MlflowTracker:
    """An open run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the `values` of `step`."""
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)

    def close(self, status: FinalStatus) -> None:
        """Set the final status of the run; an interrupted run is continued when the job resumes."""
        self._client.set_terminated(self._run_id, status=_STATUS[status])


def open_mlflow(config: RunConfig, volume: Path) -> MlflowTracker:
    """The job's run: a resumed attempt continues the run of the previous attempt.

    Raises:
        Exception: the server is unreachable, or rejects the credentials.
    """
    settings = config.tracking.mlflow
    if settings is None:
        raise ValueError("tracking.mlflow is not set")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=settings.tracking_uri or (volume / layout.MLFLOW).as_uri())
    run_id = _run_id(client, _experiment(client, settings.experiment), config)
    for batch in _batches(list(_parameters(encode(config))), _PARAMETERS_PER_REQUEST):
        _log_parameters(client, run_id, batch)
    return MlflowTracker(client, run_id)


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name))
    except MlflowException as error:
        found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if found is None:
            raise
        return str(found.experiment_id)


def _run_id(client: Any, experiment: str, config: RunConfig) -> str:
    """The run of this job, set to running."""
    job = config.job
    found = client.search_runs([experiment], filter_string=f"tags.`{JOB_TAG}` = '{job.uid}'", max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
        return run_id
    tags = {JOB_TAG: job.uid}
    return str(client.create_run(experiment, tags=tags, run_name=f"{job.namespace}/{job.name}").info.run_id)


def _log_parameters(client: Any, run_id: str, parameters: Sequence[tuple[str, str]]) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(name, value) for name, value in parameters], synchronous=True)


def _parameters(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every configured value of the run config by dotted path; list elements by index."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _parameters(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _parameters(part, f"{path}.{number}")
    elif value is not None:
        yield path, str(value)[:_VALUE_CHARACTERS]


def _batches(parameters: list[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    remaining = iter(parameters)
    while batch := list(islice(remaining, size)):
        yield batch

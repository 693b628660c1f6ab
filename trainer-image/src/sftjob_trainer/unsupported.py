"""Options of the resource that this trainer does not have yet. They are refused by name, never ignored."""

from collections.abc import Iterator

from sftjob_contract import config as run
from sftjob_contract.layout import PVC_SCHEME


def unsupported(config: run.RunConfig) -> Iterator[str]:
    """One sentence for each option that is asked for and not there."""
    for name, value, instead in _of_results(config):
        if value is not None:
            shown = f"{name}: {value}" if value != "" else name
            yield f"{shown} is not supported by this trainer: {instead}"


_Asked = tuple[str, object | None, str]
"""A field, its value (empty for an object) if it asks for something that is not there, and what to do instead."""


def _of_results(config: run.RunConfig) -> Iterator[_Asked]:
    output, tracking = config.output, config.tracking
    start = config.checkpoints.resume_from
    foreign = start is not None and "://" in start and not start.startswith(PVC_SCHEME)
    yield (
        "checkpoints.resumeFrom",
        start if foreign else None,
        "copy the checkpoint to a claim and write pvc://CLAIM/PATH",
    )
    yield "output.hub", _given(output.hub), "remove it"
    yield "output.upload", _given(output.upload_uri), "remove it"
    yield "tracking.wandb", _given(tracking.wandb), "remove it"
    yield "tracking.mlflow", _given(tracking.mlflow), "remove it"


def _given(value: object | None) -> str | None:
    return None if value is None else ""

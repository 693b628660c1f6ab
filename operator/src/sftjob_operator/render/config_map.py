"""The ConfigMap: what the trainer is to do and, where progress is reported, the CA of the endpoint. Nothing secret."""

from typing import Any

from sftjob_contract.codec import to_json
from sftjob_contract.names import CA_KEY, CONFIG_KEY
from sftjob_operator.api import SFTJob
from sftjob_operator.render.common import RenderSettings, config_map_name, metadata
from sftjob_operator.render.config import run_config


def config_map(job: SFTJob, settings: RenderSettings) -> dict[str, Any]:
    """The files that appear below MOUNT_CONFIG in every Pod of the job."""
    data = {} if job.spec.recipe is None else {CONFIG_KEY: to_json(run_config(job))}
    if settings.progress_ca is not None:
        data[CA_KEY] = settings.progress_ca
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, config_map_name(job)),
        "data": data,
    }

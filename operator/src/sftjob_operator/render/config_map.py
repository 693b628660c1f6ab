"""The ConfigMap: the run config and, if progress is reported, the CA of the endpoint. Contains no secrets."""

from typing import Any

from sftjob_contract.codec import to_json
from sftjob_contract.names import CA_KEY, CONFIG_KEY
from sftjob_operator.api import SFTJob
from sftjob_operator.render.common import RenderSettings, config_map_name, metadata
from sftjob_operator.render.config import recipe_config


def config_map(job: SFTJob, settings: RenderSettings) -> dict[str, Any]:
    """Return the files that appear below MOUNT_CONFIG in every Pod of the job."""
    config = recipe_config(job)
    data = {} if config is None else {CONFIG_KEY: to_json(config)}
    if settings.progress_ca is not None:
        data[CA_KEY] = settings.progress_ca
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, config_map_name(job), config),
        "data": data,
    }

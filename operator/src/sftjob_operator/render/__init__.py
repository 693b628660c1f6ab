"""From a job to the objects that carry it out: pure functions, fresh dicts, one module per kind."""

from sftjob_operator.render.claim import volume_claim
from sftjob_operator.render.common import (
    RenderSettings,
    config_map_name,
    pod_name,
    service_name,
    volume_claim_name,
    volume_uri,
)
from sftjob_operator.render.config import config_hash, method_name, run_config
from sftjob_operator.render.config_map import config_map
from sftjob_operator.render.environment import OWN_VARIABLES
from sftjob_operator.render.pod import pod, pods
from sftjob_operator.render.scheduling import gpu_product_label
from sftjob_operator.render.service import service

__all__ = [
    "OWN_VARIABLES",
    "RenderSettings",
    "config_hash",
    "config_map",
    "config_map_name",
    "gpu_product_label",
    "method_name",
    "pod",
    "pod_name",
    "pods",
    "run_config",
    "service",
    "service_name",
    "volume_claim",
    "volume_claim_name",
    "volume_uri",
]

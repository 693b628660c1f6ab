"""Render a job's objects: pure functions, fresh dicts, one module per kind."""

from sftjob_operator.render.claim import volume_claim
from sftjob_operator.render.common import (
    NodeLabel,
    RenderSettings,
    config_map_name,
    pod_name,
    publishes,
    service_name,
    volume_claim_name,
    volume_uri,
)
from sftjob_operator.render.config import config_hash, method_name, run_config
from sftjob_operator.render.config_map import config_map
from sftjob_operator.render.environment import OWN_VARIABLES, own_variables
from sftjob_operator.render.grace import MOST_SAVING_SECONDS, grace_seconds, saves_on_termination
from sftjob_operator.render.pod import pod, pods
from sftjob_operator.render.resources import memory_field, stage_resources
from sftjob_operator.render.scheduling import gpu_product_label
from sftjob_operator.render.service import service

__all__ = [
    "MOST_SAVING_SECONDS",
    "OWN_VARIABLES",
    "NodeLabel",
    "RenderSettings",
    "config_hash",
    "config_map",
    "config_map_name",
    "gpu_product_label",
    "grace_seconds",
    "memory_field",
    "method_name",
    "own_variables",
    "pod",
    "pod_name",
    "pods",
    "publishes",
    "run_config",
    "saves_on_termination",
    "service",
    "service_name",
    "stage_resources",
    "volume_claim",
    "volume_claim_name",
    "volume_uri",
]

"""Everything that is rendered for a job, and the published schemas that it must fit."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

from sftjob_contract.names import Stage
from sftjob_operator.api import SFTJob
from sftjob_operator.render import RenderSettings, config_map, pods, publishes, service, volume_claim

Object = dict[str, Any]

utils.schema_contents = cache(utils.schema_contents)  # a file of a megabyte, which is read for every object

REPORTING = RenderSettings(
    trainer_image="registry.example.com/sftjob-trainer:1.0",
    progress_url="https://sftjob-operator.sftjob-system.svc:8443",
    progress_ca="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
)
SILENT = RenderSettings(trainer_image="sftjob-trainer:cpu", progress_url=None, progress_ca=None)
SCHEMA_VERSIONS = ("1.32", "1.37")
"""Versions of Kubernetes to check with: the oldest that is supported, and the newest that schemas are there for."""


def render_all(job: SFTJob, settings: RenderSettings, *, attempt: int = 1) -> list[Object]:
    """Every object of a job that prepared at once, if it prepares at all, and trains in its `attempt`."""
    prepare = () if job.spec.command is not None else pods(job, Stage.PREPARE, 1, settings)
    children = (volume_claim(job), config_map(job, settings), service(job))
    return [
        *(child for child in children if child is not None),
        *prepare,
        *pods(job, Stage.TRAIN, attempt, settings),
        *(pods(job, Stage.PUBLISH, 1, settings) if publishes(job) else ()),
    ]


def pods_among(documents: list[Object]) -> list[Object]:
    """Those of them that are Pods."""
    return [document for document in documents if document["kind"] == "Pod"]


def check_published_schema(document: Mapping[str, Any], version: str) -> None:
    """Check an object against a published schema that knows no field beyond its own.

    Raises:
        kubernetes_validate.ValidationError: it does not fit.
    """
    kubernetes_validate.validate(document, version, strict=True)

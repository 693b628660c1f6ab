"""The headless Service: DNS names for the Train Pods of several nodes, for the rendezvous with rank 0."""

from typing import Any

from sftjob_contract.names import LABEL_JOB, LABEL_STAGE, RENDEZVOUS_PORT, Stage
from sftjob_operator.api import SFTJob
from sftjob_operator.render.common import metadata, service_name
from sftjob_operator.render.config import recipe_config


def service(job: SFTJob) -> dict[str, Any] | None:
    """Return the Service of the rendezvous; None with one node.

    It publishes Pods that are not ready, since no Pod is until all have met.
    """
    if job.spec.resources.nodes == 1:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(job, service_name(job), recipe_config(job)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB: job.metadata.name, LABEL_STAGE: str(Stage.TRAIN)},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }

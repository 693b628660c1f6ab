"""The headless Service: names for the Train Pods of several nodes, so that they find the one of rank 0."""

from typing import Any

from sftjob_contract.names import LABEL_JOB, LABEL_STAGE, RENDEZVOUS_PORT, Stage
from sftjob_operator.api import SFTJob
from sftjob_operator.render.common import metadata, service_name


def service(job: SFTJob) -> dict[str, Any] | None:
    """The Service of the rendezvous; None with one node.

    Pods get their names before they are ready, since none is until all have met.
    """
    if job.spec.resources.nodes == 1:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(job, service_name(job)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB: job.metadata.name, LABEL_STAGE: str(Stage.TRAIN)},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }

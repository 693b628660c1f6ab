"""A status as the API server checks it against the served CRD."""

import functools
from typing import Any

from sftjob_contract.names import API_VERSION, KIND, VERSION
from sftjob_operator.api.crd import definition
from sftjob_sandbox.kinds.custom import CustomSchema, custom_schema
from support.checks.kube_schemas import told
from support.jobs.builders import a_job


@functools.cache
def _served() -> CustomSchema:
    """The resource as the API server has compiled it."""
    return custom_schema(definition(), VERSION)


@functools.cache
def _stored() -> dict[str, Any]:
    body = a_job().body()
    return {**_served().default({**body, "apiVersion": API_VERSION, "kind": KIND}), "status": {}}


def refusals(status: dict[str, Any]) -> list[str]:
    """What the API server would refuse of a status, unknown fields included; nothing of one that can be stored."""
    written = {**_stored(), "status": status}
    pruned, unknown = _served().prune(written)
    return [*unknown, *told(_served().validate_status(pruned, _stored()))]

"""What the operator writes is taken by the API server as it is: rendered children, and a status with every field."""

import json
from pathlib import Path
from typing import Any

import pytest

from sftjob_operator.api import SFTJobStatus, to_dict
from sftjob_operator.api.crd import resource_schema
from support.kubectl import Kubectl
from support.manifests import DEFINITION, ROOT

GOLDEN = sorted((ROOT / "tests" / "unit" / "render" / "golden").glob("*/out.yaml"))
NAME = "minimal"


@pytest.fixture(scope="module")
def kubectl(sandbox_kubectl: Kubectl) -> Kubectl:
    """kubectl on a server with a job and the namespace of the golden files."""
    sandbox_kubectl("apply", "-f", str(DEFINITION))
    sandbox_kubectl("wait", "--for=condition=Established", "crd/sftjobs.sftjob.dev", "--timeout=30s")
    sandbox_kubectl("apply", "-f", str(ROOT / "crds" / "samples" / f"{NAME}.yaml"))
    sandbox_kubectl("create", "namespace", "team")
    return sandbox_kubectl


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parent.name)
def test_rendered_children_pass_strict_validation(kubectl: Kubectl, path: Path) -> None:
    accepted = kubectl("create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", str(path))
    assert len(accepted.splitlines()) == 4


def filled(schema: dict[str, Any]) -> Any:
    """A value for every field; texts and lists at their limits are in the other tests."""
    if "enum" in schema:
        return schema["enum"][0]
    if "properties" in schema:
        return {name: filled(field) for name, field in schema["properties"].items()}
    if "additionalProperties" in schema:
        return {"name": filled(schema["additionalProperties"])}
    if schema["type"] == "array":
        return [filled(schema["items"])]
    if schema.get("format") == "date-time":
        return "2026-03-01T12:00:00Z"
    return {"integer": 7, "number": 0.5, "string": "text", "boolean": True}[schema["type"]]


def write_status(kubectl: Kubectl, status: SFTJobStatus) -> Any:
    """The status as it was stored."""
    patch = json.dumps({"status": to_dict(status)})
    kubectl("patch", "sftjob", NAME, "--subresource=status", "--type=merge", "-p", patch)
    return kubectl.json("get", "sftjob", NAME)["status"]


def test_no_field_of_a_status_is_dropped_on_its_way(kubectl: Kubectl) -> None:
    everything = filled(resource_schema()["properties"]["status"])
    status = SFTJobStatus.model_validate(everything)
    assert to_dict(status) == everything, "a field of the schema has no place in the model"
    assert write_status(kubectl, status) == everything


def test_a_status_that_was_cut_to_its_bounds_is_accepted(kubectl: Kubectl) -> None:
    everything = filled(resource_schema()["properties"]["status"])
    (attempt,) = everything["attempts"]
    attempts = [{**attempt, "number": number, "message": "x" * 5000} for number in range(1, 100)]
    stored = write_status(kubectl, SFTJobStatus.model_validate({**everything, "attempts": attempts}))
    assert [entry["number"] for entry in stored["attempts"]] == list(range(52, 100))
    assert len(stored["attempts"][0]["message"]) == 1024


def test_columns_of_a_running_job(kubectl: Kubectl) -> None:
    progress = {"step": 120, "maxSteps": 375, "percent": 32, "loss": 1.2345678, "eta": "3m12s", "tokensPerSecond": 950}
    write_status(kubectl, SFTJobStatus.model_validate({"phase": "Running", "method": "lora", "progress": progress}))
    _, row = kubectl("get", "sft", NAME, "-o", "wide").splitlines()
    cells = row.split()
    assert cells[:7] == [NAME, "Running", "120", "32", "1.23457", "3m12s", "1"]
    assert cells[8:11] == ["hf://Qwen/Qwen2.5-0.5B", "lora", "950"]

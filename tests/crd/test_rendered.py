"""What the operator writes is taken by the API server as it is: rendered children, and a status with every field.

Every sample has a golden file of all that is rendered for it.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.names import LABEL_STAGE, Stage
from sftjob_operator.api import SFTJobStatus, parse_job, to_dict
from sftjob_operator.api.crd import resource_schema
from support.checks.golden import check_golden, dump_documents, load_documents
from support.checks.kube_schemas import create_refusals
from support.checks.pod_security import violations
from support.checks.rendering import REPORTING, SCHEMA_VERSIONS, Object, check_published_schema, pods_among, render_all
from support.clients.kubectl import Kubectl
from support.jobs.builders import UID
from support.jobs.manifests import ROOT, SAMPLES, load_manifest

GOLDEN = ROOT / "tests" / "crd" / "golden"
RENDERED = [
    *sorted((ROOT / "tests" / "unit" / "render" / "golden").glob("*/out.yaml")),
    *(GOLDEN / f"{path.stem}.yaml" for path in SAMPLES),
]
NAME = "minimal"


@pytest.fixture(scope="module")
def running(kubectl: Kubectl) -> Kubectl:
    """kubectl in a namespace with a job."""
    kubectl("create", "namespace", "rendered")
    running = kubectl.within("rendered")
    running("apply", "-f", str(ROOT / "crds" / "samples" / f"{NAME}.yaml"))
    return running


@pytest.fixture(scope="module")
def accounts(kubectl: Kubectl) -> None:
    """The namespace of the golden files, with the ServiceAccounts of their Pods."""
    pods = pods_among([document for path in SAMPLES for document in rendered_sample(path)])
    names = sorted({pod["spec"].get("serviceAccountName", "trainer") for pod in pods})
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}},
        *({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": n, "namespace": "team"}} for n in names),
    ]
    kubectl("create", "-f", "-", text=dump_documents(objects))


def rendered_id(path: Path) -> str:
    return path.stem if path.parent == GOLDEN else path.parent.name


@cache
def rendered_sample(path: Path) -> list[Object]:
    """What is made for a sample that is applied in the namespace of the golden files."""
    manifest = load_manifest(path)
    metadata = {**manifest["metadata"], "namespace": "team", "uid": UID}
    return render_all(parse_job({**manifest, "metadata": metadata}), REPORTING)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_what_is_rendered_for_a_sample(path: Path) -> None:
    check_golden(GOLDEN / path.name, rendered_sample(path))


def test_no_golden_file_is_left_of_a_sample_that_is_gone() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {path.name for path in SAMPLES}


@pytest.mark.parametrize("version", SCHEMA_VERSIONS)
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_what_is_rendered_for_a_sample_fits_the_published_schema(path: Path, version: str) -> None:
    for document in rendered_sample(path):
        check_published_schema(document, version)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_pod_of_a_sample_meets_the_restricted_standard(path: Path) -> None:
    found = pods_among(rendered_sample(path))
    assert {pod["metadata"]["labels"][LABEL_STAGE] for pod in found} >= {Stage.TRAIN}
    assert [line for document in found for line in violations(document)] == []


@pytest.mark.parametrize("path", RENDERED, ids=rendered_id)
def test_rendered_children_obey_the_rules_of_their_kind(path: Path) -> None:
    documents = load_documents(path)
    for pod in pods_among(documents):
        pod["spec"].setdefault("serviceAccountName", "default")  # admission does that before the rules are looked at
    assert [line for document in documents for line in create_refusals(document)] == []


def test_rendered_children_pass_strict_validation(kubectl: Kubectl, accounts: None, tmp_path: Path) -> None:
    """Left out is what this server does not have: Services, and the cluster's own classes of Pods."""
    count = 0
    for path in RENDERED:
        documents = [document for document in load_documents(path) if document["kind"] != "Service"]
        for pod in pods_among(documents):
            pod["spec"].pop("priorityClassName", None)
            pod["spec"].pop("runtimeClassName", None)
        (tmp_path / f"{rendered_id(path)}.yaml").write_text(dump_documents(documents), encoding="utf-8")
        count += len(documents)
    assert len(list(tmp_path.iterdir())) == len(RENDERED)
    accepted = kubectl.run("create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", str(tmp_path))
    assert (accepted.returncode, accepted.stderr) == (0, "")
    assert len(accepted.stdout.splitlines()) == count


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


def write_status(running: Kubectl, status: SFTJobStatus) -> Any:
    """The status as it was stored."""
    patch = json.dumps({"status": to_dict(status)})
    running("patch", "sftjob", NAME, "--subresource=status", "--type=merge", "-p", patch)
    return running.json("get", "sftjob", NAME)["status"]


def test_no_field_of_a_status_is_dropped_on_its_way(running: Kubectl) -> None:
    everything = filled(resource_schema()["properties"]["status"])
    status = SFTJobStatus.model_validate(everything)
    assert to_dict(status) == everything, "a field of the schema has no place in the model"
    assert write_status(running, status) == everything


def test_a_status_that_was_cut_to_its_bounds_is_accepted(running: Kubectl) -> None:
    everything = filled(resource_schema()["properties"]["status"])
    (attempt,) = everything["attempts"]
    attempts = [{**attempt, "number": number, "message": "x" * 5000} for number in range(1, 100)]
    stored = write_status(running, SFTJobStatus.model_validate({**everything, "attempts": attempts}))
    assert [entry["number"] for entry in stored["attempts"]] == list(range(52, 100))
    assert len(stored["attempts"][0]["message"]) == 1024


def test_columns_of_a_running_job(running: Kubectl) -> None:
    progress = {"step": 120, "maxSteps": 375, "percent": 32, "loss": 1.2345678, "eta": "3m12s", "tokensPerSecond": 950}
    texts = {"percentText": "32%", "evalLossChange": "6.94 -> 3.68"}
    condition = {"type": "Succeeded", "status": "Unknown", "reason": "Training"}
    condition["lastTransitionTime"] = "2026-03-01T12:00:00Z"
    status = {
        "phase": "Running",
        "method": "lora",
        "gpus": 8,
        "progress": progress | texts,
        "conditions": [condition],
    }
    write_status(running, SFTJobStatus.model_validate(status))
    _, row = running("get", "sft", NAME, "-o", "wide").splitlines()
    cells = re.split(r"\s{2,}", row.strip())
    assert cells[:9] == [NAME, "Running", "Training", "120", "32%", "1.23457", "6.94 -> 3.68", "3m12s", "8"]
    assert cells[10:] == ["hf://Qwen/Qwen2.5-0.5B", "lora", "950"]

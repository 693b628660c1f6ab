"""What a user meets at `kubectl apply`: what is right is taken, what is wrong is refused with clear sentences."""

import re
from pathlib import Path
from typing import Any

import pytest

from support.kubectl import Kubectl
from support.manifests import DEFINITION, INVALID, SAMPLES, VALID, expected_sentences, load_manifest


@pytest.fixture(scope="module")
def kubectl(sandbox_kubectl: Kubectl) -> Kubectl:
    """kubectl on a server that has the definition."""
    sandbox_kubectl("apply", "-f", str(DEFINITION))
    sandbox_kubectl("wait", "--for=condition=Established", "crd/sftjobs.sftjob.dev", "--timeout=30s")
    sandbox_kubectl("create", "namespace", "team")
    return sandbox_kubectl


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_accepted_and_applying_it_again_changes_nothing(kubectl: Kubectl, path: Path) -> None:
    name = load_manifest(path)["metadata"]["name"]
    assert kubectl("apply", "-f", str(path)) == f"sftjob.sftjob.dev/{name} created\n"
    assert kubectl("apply", "-f", str(path)) == f"sftjob.sftjob.dev/{name} unchanged\n"


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_an_unusual_but_right_manifest_is_accepted_without_a_warning(kubectl: Kubectl, path: Path) -> None:
    name = load_manifest(path)["metadata"]["name"]
    created = kubectl.run("apply", "-n", "team", "-f", str(path))
    assert (created.stdout, created.stderr) == (f"sftjob.sftjob.dev/{name} created\n", "")
    again = kubectl.run("apply", "-n", "team", "-f", str(path))
    assert (again.returncode, again.stderr) == (0, "")
    assert kubectl.json("get", "sft", name, "-n", "team")["metadata"]["generation"] == 1


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_bad_manifest_is_refused_with_its_sentences_and_no_other(kubectl: Kubectl, path: Path) -> None:
    refused = kubectl.run("apply", "-f", str(path))
    assert refused.returncode != 0, refused.stdout
    assert sorted(complaints(refused.stderr)) == sorted(expected_sentences(path))


def complaints(stderr: str) -> list[str]:
    """What kubectl says is wrong with one manifest, without the frame around it."""
    frame = r'^(The SFTJob "[^"]*" is invalid: |Error from server .* cannot be handled as a SFTJob: )'
    text = re.sub(frame, "", stderr)
    lines = [line.removeprefix("* ") for line in text.strip().splitlines() if line.strip()]
    return [line for line in lines if "some validation rules were not checked" not in line]


def test_a_bad_manifest_leaves_nothing_behind(kubectl: Kubectl) -> None:
    names = {load_manifest(path)["metadata"]["name"] for path in INVALID}
    stored = {item["metadata"]["name"] for item in kubectl.json("get", "sftjobs")["items"]}
    assert not names & stored


DEFAULTS = [
    ("minimal", "training.scheduler", "cosine"),
    ("minimal", "training.learningRate", None),  # depends on the method, so it is resolved later
    ("minimal", "training.packing", False),
    ("minimal", "dataset.evaluation", {"fraction": 0.05}),
    ("minimal", "dataset.onInvalidRow", "Fail"),
    ("minimal", "method.lora.targetModules", ["all-linear"]),
    ("minimal", "method.quantization", None),
    (
        "minimal",
        "storage",
        {"size": "50Gi", "accessModes": ["ReadWriteOnce"], "retain": False, "existingContent": "Refuse"},
    ),
    ("minimal", "checkpoints", {"keep": 3, "onTermination": True}),
    ("minimal", "output", {"mergeAdapter": False, "retain": "All"}),
    ("minimal", "tracking", {"tensorboard": False}),
    ("minimal", "failurePolicy", {"maxRetries": 6, "maxInterruptions": 100, "backoffSeconds": 1}),
    ("minimal", "suspend", False),
    ("qlora-8-bits", "method.quantization.type", "nf4"),
    ("evaluation-split", "dataset.evaluation", {"split": "test"}),
    ("two-nodes-on-an-existing-claim", "resources.gpus", 1),
    ("trackers", "tracking.mlflow.experiment", "sftjob"),
    ("output-everywhere", "output.hub.private", False),
    ("early-stopping", "training.earlyStopping", {"patience": 3, "threshold": 0}),
    ("extra-of-every-type", "training.extra.lr_scheduler_kwargs.nested", {"deeper": [1, 2.5, False, "text"]}),
    ("unquoted-learning-rate", "training.learningRate", 0.0002),
]


@pytest.mark.parametrize(("name", "field", "value"), DEFAULTS, ids=[f"{name}: {field}" for name, field, _ in DEFAULTS])
def test_defaults_are_stored_and_seen(stored_specs: dict[str, Any], name: str, field: str, value: Any) -> None:
    found = stored_specs[name]
    for key in field.split("."):
        found = found.get(key)
    assert found == value


@pytest.fixture(scope="module")
def stored_specs(kubectl: Kubectl) -> dict[str, Any]:
    """Specs by the names of their jobs, as the server gives them back."""
    kubectl("create", "namespace", "defaults")
    wanted = {name for name, _, _ in DEFAULTS}
    for path in (path for path in (*SAMPLES, *VALID) if path.stem in wanted):
        kubectl("apply", "-n", "defaults", "-f", str(path))
    jobs = kubectl.json("get", "sftjobs", "-n", "defaults")["items"]
    return {job["metadata"]["name"]: job["spec"] for job in jobs}


def test_explain_tells_what_the_reference_tells(kubectl: Kubectl) -> None:
    text = " ".join(kubectl("explain", "sftjob.spec.training.learningRate").split())
    assert "learningRate <number>" in text
    assert "Absent: 2e-4 with lora, 2e-5 with full. TRL: learning_rate." in text


def test_columns(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(next(path for path in SAMPLES if path.stem == "full")))
    header, row = kubectl("get", "sft", "full").splitlines()
    assert header.split() == ["NAME", "PHASE", "REASON", "STEP", "PROGRESS", "LOSS", "EVAL", "ETA", "GPUS", "AGE"]
    assert row.split()[0] == "full"
    wide, _ = kubectl("get", "sft", "full", "-o", "wide").splitlines()
    assert wide.split()[-3:] == ["MODEL", "METHOD", "TOK/S"]


def test_get_all_stays_about_workloads(kubectl: Kubectl) -> None:
    assert "sftjob" not in kubectl("get", "all", "-o", "name")

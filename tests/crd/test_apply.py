"""What a user meets at `kubectl apply`: every sample is taken, every bad manifest is refused with a clear sentence."""

from pathlib import Path

import pytest

from support.kubectl import Kubectl
from support.manifests import DEFINITION, IMMUTABLE, INVALID, SAMPLES, expected_sentence, load_manifest


@pytest.fixture(scope="module")
def kubectl(sandbox_kubectl: Kubectl) -> Kubectl:
    """kubectl on a server that has the definition."""
    sandbox_kubectl("apply", "-f", str(DEFINITION))
    sandbox_kubectl("wait", "--for=condition=Established", "crd/sftjobs.sftjob.dev", "--timeout=30s")
    return sandbox_kubectl


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_accepted_and_applying_it_again_changes_nothing(kubectl: Kubectl, path: Path) -> None:
    name = load_manifest(path)["metadata"]["name"]
    assert kubectl("apply", "-f", str(path)) == f"sftjob.sftjob.dev/{name} created\n"
    assert kubectl("apply", "-f", str(path)) == f"sftjob.sftjob.dev/{name} unchanged\n"


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_bad_manifest_is_refused_with_its_sentence(kubectl: Kubectl, path: Path) -> None:
    refused = kubectl.run("apply", "-f", str(path))
    assert refused.returncode != 0, refused.stdout
    assert expected_sentence(path) in refused.stderr


def test_a_bad_manifest_leaves_nothing_behind(kubectl: Kubectl) -> None:
    names = {load_manifest(path)["metadata"]["name"] for path in INVALID}
    stored = {item["metadata"]["name"] for item in kubectl.json("get", "sftjobs")["items"]}
    assert not names & stored


def test_a_changed_spec_is_refused_and_says_what_to_do(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(IMMUTABLE / "before.yaml"))
    refused = kubectl.run("apply", "-f", str(IMMUTABLE / "after.yaml"))
    assert refused.returncode != 0
    assert expected_sentence(IMMUTABLE / "after.yaml") in refused.stderr
    assert kubectl.json("get", "sft", "fixed")["spec"]["training"]["epochs"] == 1


def test_labels_can_be_changed_on_a_job_whose_spec_can_not(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(IMMUTABLE / "before.yaml"))
    kubectl("label", "sftjob", "fixed", "team=research", "--overwrite")
    assert kubectl.json("get", "sft", "fixed")["metadata"]["labels"] == {"team": "research"}


def test_defaults_are_stored_and_seen(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(next(path for path in SAMPLES if path.stem == "minimal")))
    spec = kubectl.json("get", "sftjob", "minimal")["spec"]
    assert spec["training"]["scheduler"] == "cosine"
    assert spec["method"]["lora"] == {"rank": 16, "alpha": 32, "dropout": 0.05, "targetModules": ["all-linear"]}
    assert spec["dataset"]["evaluation"] == {"fraction": 0.05}
    assert "learningRate" not in spec["training"]  # depends on the method, so it is resolved later


def test_an_unquoted_learning_rate_is_a_number(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(next(path for path in SAMPLES if path.stem == "qlora")))
    assert kubectl.json("get", "sftjob", "qlora")["spec"]["training"]["learningRate"] == 0.0002


def test_explain_tells_what_the_reference_tells(kubectl: Kubectl) -> None:
    text = " ".join(kubectl("explain", "sftjob.spec.training.learningRate").split())
    assert "learningRate <number>" in text
    assert "Absent: 2e-4 with lora, 2e-5 with full. TRL: learning_rate." in text


def test_columns(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", str(next(path for path in SAMPLES if path.stem == "full")))
    header, row = kubectl("get", "sft", "full").splitlines()
    assert header.split() == ["NAME", "PHASE", "STEP", "PROGRESS", "LOSS", "ETA", "GPUS", "AGE"]
    assert row.split()[:2] == ["full", "1"]
    wide, _ = kubectl("get", "sft", "full", "-o", "wide").splitlines()
    assert wide.split()[-4:] == ["MODEL", "METHOD", "TOK/S", "REASON"]


def test_get_all_stays_about_workloads(kubectl: Kubectl) -> None:
    assert "sftjob" not in kubectl("get", "all", "-o", "name")

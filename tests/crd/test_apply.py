"""What a user meets at `kubectl apply`: what is right is taken, what is wrong is refused with clear sentences."""

import re
from pathlib import Path
from typing import Any

import pytest

from support.clients.kubectl import Kubectl
from support.jobs.manifests import INVALID, SAMPLES, VALID, expected_sentences, load_manifest

NOT_CHECKED = (
    '<nil>: Invalid value: "null": some validation rules were not checked because the object was invalid; '
    "correct the existing errors to complete validation"
)


def files(paths: list[Path]) -> list[str]:
    """Arguments of one command on all of them."""
    return [word for path in paths for word in ("-f", str(path))]


def lines(paths: list[Path], what: str) -> str:
    """What kubectl prints about them."""
    names = [load_manifest(path)["metadata"]["name"] for path in paths]
    return "".join(f"sftjob.sftjob.dev/{name} {what}\n" for name in names)


def test_every_sample_is_accepted_and_applying_it_again_changes_nothing(kubectl: Kubectl) -> None:
    assert kubectl("apply", *files(SAMPLES)) == lines(SAMPLES, "created")
    assert kubectl("apply", *files(SAMPLES)) == lines(SAMPLES, "unchanged")


def test_every_unusual_but_valid_manifest_is_accepted_without_a_warning(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "unusual")
    created = kubectl.run("apply", "-n", "unusual", *files(VALID))
    assert (created.stdout, created.stderr) == (lines(VALID, "created"), "")
    again = kubectl.run("apply", "-n", "unusual", *files(VALID))
    assert (again.returncode, again.stderr) == (0, "")
    stored = kubectl.json("get", "sft", "-n", "unusual")["items"]
    generations = {job["metadata"]["name"]: job["metadata"]["generation"] for job in stored}
    assert generations == {load_manifest(path)["metadata"]["name"]: 1 for path in VALID}


@pytest.fixture(scope="module")
def refusals(kubectl: Kubectl) -> dict[str, str]:
    """What kubectl reports about each bad manifest, by file, when all are applied at once."""
    refused = kubectl.run("apply", *files(INVALID), timeout=120)
    assert (refused.returncode, refused.stdout) == (1, "")
    frame = re.compile(
        r'^Error from server \(\w+\): error when creating "(?P<path>[^"]*)": (?:SFTJob\.sftjob\.dev "[^"]*" is invalid'
        r"|SFTJob in version \S+ cannot be handled as a SFTJob): (?P<sentences>.*)$"
    )
    found = {line: frame.match(line) for line in refused.stderr.splitlines()}
    assert [line for line, match in found.items() if match is None] == []
    return {match["path"]: match["sentences"] for match in found.values() if match}


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_bad_manifest_is_refused_with_its_sentences_and_no_other(refusals: dict[str, str], path: Path) -> None:
    rest = refusals[str(path)].replace(NOT_CHECKED, "")
    for sentence in sorted(expected_sentences(path), key=len, reverse=True):
        assert sentence in rest
        rest = rest.replace(sentence, "", 1)
    assert rest.strip("[, ]") == ""


@pytest.mark.parametrize(
    "name", ["batch-size-zero", "added-tokens-blank", "attention-unknown", "learning-rate-as-text", "unknown-field"]
)
def test_one_bad_manifest_is_refused_with_a_line_for_each_sentence(kubectl: Kubectl, name: str) -> None:
    (path,) = (path for path in INVALID if path.stem == name)
    refused = kubectl.run("apply", "-f", str(path))
    assert refused.returncode == 1
    assert sorted(complaints(refused.stderr)) == sorted(expected_sentences(path))


def complaints(stderr: str) -> list[str]:
    """What kubectl says is wrong with one manifest, without the frame around it."""
    frame = r'^(The SFTJob "[^"]*" is invalid: |Error from server .* cannot be handled as a SFTJob: )'
    text = re.sub(frame, "", stderr)
    lines = [line.removeprefix("* ") for line in text.strip().splitlines() if line.strip()]
    return [line for line in lines if line not in NOT_CHECKED]


def test_a_bad_manifest_leaves_nothing_behind(kubectl: Kubectl, refusals: dict[str, str]) -> None:
    assert len(refusals) == len(INVALID)
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
    kubectl("apply", "-n", "defaults", *files([path for path in (*SAMPLES, *VALID) if path.stem in wanted]))
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

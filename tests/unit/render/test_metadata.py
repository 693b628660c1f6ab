"""Labels and annotations of what is created for a job."""

from typing import Any

import pytest

from sftjob_contract.names import LABEL_JOB, LABEL_MANAGED_BY, LABEL_STAGE, MANAGED_BY
from support.checks.rendering import REPORTING, pods_among, render_all
from support.jobs.builders import a_job

OWN = {"team": "research", "app.kubernetes.io/part-of": "assistant"}
NOT_COPIED = {
    "app.kubernetes.io/instance": "argo-application",
    "app.kubernetes.io/managed-by": "Helm",
    "argocd.argoproj.io/instance": "application",
    "helm.sh/chart": "jobs-1.0",
    "kustomize.toolkit.fluxcd.io/name": "jobs",
    "kueue.x-k8s.io/queue-name": "default",
    "pod-security.kubernetes.io/enforce": "privileged",
    "sftjob.dev/job": "other",
}


def children(**spec: Any) -> list[dict[str, Any]]:
    job = a_job().meta(labels={**OWN, **NOT_COPIED}).resources(nodes=2).storage(access_modes=["ReadWriteMany"])
    for name, value in spec.items():
        job = job.set(name, value)
    return render_all(job.build(), REPORTING)


def test_every_child_has_the_labels_of_its_job_but_those_by_which_other_tools_find_their_own() -> None:
    for child in children():
        labels = child["metadata"]["labels"]
        assert OWN.items() <= labels.items()
        assert not (NOT_COPIED.items() & labels.items())
        assert (labels[LABEL_JOB], labels[LABEL_MANAGED_BY]) == ("demo", MANAGED_BY)


def test_pods_alone_have_the_metadata_of_the_spec_and_keep_the_operators() -> None:
    theirs = {"team": "other", LABEL_STAGE: "none", LABEL_JOB: "none"}
    documents = children(podMetadata={"labels": theirs, "annotations": {"sidecar.istio.io/inject": "false"}})
    for child in documents:
        labels, notes = child["metadata"]["labels"], child["metadata"].get("annotations", {})
        of_pod = child in pods_among(documents)
        assert labels["team"] == ("other" if of_pod else "research")
        assert ("sidecar.istio.io/inject" in notes) == of_pod
        assert (labels[LABEL_JOB], labels.get(LABEL_STAGE) != "none") == ("demo", True)


@pytest.mark.parametrize(
    ("resources", "train", "prepare"),
    [
        ({"cpu": "4"}, ({"cpu": "4"}, None), ({"cpu": "4"}, None)),
        ({"cpu": "4", "cpuLimit": "8"}, ({"cpu": "4"}, {"cpu": "8"}), ({"cpu": "4"}, {"cpu": "8"})),
        (
            {"cpuLimit": "8", "prepare": {"cpu": "1", "cpuLimit": "2"}},
            (None, {"cpu": "8"}),
            ({"cpu": "1"}, {"cpu": "2"}),
        ),
    ],
)
def test_a_cpu_limit_is_a_limit_and_no_request(resources: dict[str, Any], train: Any, prepare: Any) -> None:
    documents = render_all(a_job().set("resources", {"gpus": 0, **resources}).build(), REPORTING)
    found = [pod["spec"]["containers"][0]["resources"] for pod in pods_among(documents)]
    assert [(each.get("requests"), each.get("limits")) for each in found] == [prepare, train]

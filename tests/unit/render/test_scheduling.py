"""Where Pods may run, and how several nodes become one run."""

import dataclasses
from typing import Any

import pytest

from sftjob_contract.names import (
    ENV_NODE_RANK,
    ENV_NODES,
    ENV_PROGRESS_URL,
    ENV_RENDEZVOUS,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_NODE_RANK,
    LABEL_STAGE,
    Stage,
)
from sftjob_operator.render import NodeLabel, gpu_product_label, pod, pod_name, pods, service, service_name
from support.checks.rendering import REPORTING, render_all
from support.jobs.builders import JobBuilder, a_job

Object = dict[str, Any]
TAINT_OF_GPUS = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
TWO_NODES = a_job("demo").storage(access_modes=["ReadWriteMany"]).resources(nodes=2, gpus=8)


def rendered(job: JobBuilder, stage: Stage = Stage.TRAIN, attempt: int = 1) -> Object:
    return pod(job.build(), stage, attempt, REPORTING)


def train_pods(job: JobBuilder, attempt: int = 1) -> tuple[Object, ...]:
    return pods(job.build(), Stage.TRAIN, attempt, REPORTING)


def variables(document: Object) -> dict[str, str]:
    (container,) = document["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


@pytest.mark.parametrize(
    ("field", "value", "rendered_as"),
    [
        ("nodeSelector", {"zone": "a"}, {"zone": "a"}),
        ("priorityClassName", "high", "high"),
        ("schedulerName", "volcano", "volcano"),
        ("runtimeClassName", "nvidia", "nvidia"),
        ("serviceAccountName", "trainer", "trainer"),
    ],
)
def test_both_stages_are_placed_alike(field: str, value: Any, rendered_as: Any) -> None:
    job = a_job().set(f"scheduling.{field}", value)
    for stage in Stage:
        assert rendered(job, stage)["spec"][field] == rendered_as
        assert field not in rendered(a_job(), stage)["spec"]


def as_helm_writes_it(empty: str | None) -> JobBuilder:
    """A job on two nodes whose fields of a Pod come from empty values of a chart."""
    places = ("topologyKey", "priorityClassName", "queueName", "schedulerName", "runtimeClassName")
    job = a_job().resources(nodes=2).storage(access_modes=["ReadWriteMany"]).set("scheduling", {})
    for name in (*places, "serviceAccountName"):
        job = JobBuilder(job.metadata, {**job.spec, "scheduling": {**job.spec["scheduling"], name: empty}})
    return JobBuilder(job.metadata, {**job.spec, "imagePullPolicy": empty})


@pytest.mark.parametrize("empty", ["", None], ids=["empty text", "null"])
def test_empty_fields_of_a_pod_are_rendered_as_absent_ones(empty: str | None) -> None:
    usual = a_job().resources(nodes=2).storage(access_modes=["ReadWriteMany"])
    for stage in Stage:
        assert rendered(as_helm_writes_it(empty), stage) == rendered(usual, stage)


@pytest.mark.parametrize(
    ("job", "rendered_as"),
    [
        (a_job().resources(gpus=0), None),
        (a_job(), [TAINT_OF_GPUS]),
        (a_job().resources(gpu_resource_name="amd.com/gpu"), [{**TAINT_OF_GPUS, "key": "amd.com/gpu"}]),
        (
            a_job().resources(gpu_resource_name="nvidia.com/mig-1g.10gb"),
            [{**TAINT_OF_GPUS, "key": "nvidia.com/mig-1g.10gb"}, TAINT_OF_GPUS],
        ),
        (a_job().scheduling(tolerations=[TAINT_OF_GPUS]), [TAINT_OF_GPUS]),
        (
            a_job().scheduling(tolerations=[{"key": "", "operator": "Exists", "value": "", "effect": ""}]),
            [{"operator": "Exists"}, TAINT_OF_GPUS],
        ),
        (
            a_job().scheduling(
                tolerations=[{"key": "a", "operator": "", "value": "b", "effect": None, "tolerationSeconds": None}]
            ),
            [{"key": "a", "value": "b"}, TAINT_OF_GPUS],
        ),
    ],
    ids=["no GPU", "NVIDIA", "AMD", "a MIG slice", "given as well", "written out in full", "with nulls"],
)
def test_both_stages_tolerate_the_taint_of_nodes_with_gpus(job: JobBuilder, rendered_as: Any) -> None:
    for stage in Stage:
        assert rendered(job, stage)["spec"].get("tolerations") == rendered_as


PRESENT = NodeLabel(key="nvidia.com/gpu.present", value="true")


@pytest.mark.parametrize(
    ("job", "label", "wanted"),
    [
        (a_job(), PRESENT, {"key": "nvidia.com/gpu.present", "operator": "In", "values": ["true"]}),
        (a_job(), NodeLabel(key="accelerator", value=None), {"key": "accelerator", "operator": "Exists"}),
        (
            a_job().resources(gpu_resource_name="amd.com/gpu"),
            PRESENT,
            {"key": "amd.com/gpu.product-name", "operator": "Exists"},
        ),
        (
            a_job().resources(gpu_resource_name="amd.com/gpu"),
            NodeLabel(key="accelerator", value="mi300"),
            {"key": "accelerator", "operator": "In", "values": ["mi300"]},
        ),
        (a_job().resources(gpus=0), PRESENT, None),
        (a_job(), None, None),
    ],
    ids=["NVIDIA", "any value", "AMD beside NVIDIA's label", "AMD by a label of the cluster's", "no GPU", "no label"],
)
def test_prepare_prefers_nodes_with_the_gpu(job: JobBuilder, label: NodeLabel | None, wanted: Any) -> None:
    """The volume that it binds may be reachable from there alone."""
    settings = dataclasses.replace(REPORTING, gpu_node=label)
    spec = pod(job.build(), Stage.PREPARE, 1, settings)["spec"]
    preferred = [] if wanted is None else [{"weight": 100, "preference": {"matchExpressions": [wanted]}}]
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    assert affinity.get("preferredDuringSchedulingIgnoredDuringExecution", []) == preferred
    assert "affinity" not in pod(job.build(), Stage.TRAIN, 1, settings)["spec"]


@pytest.mark.parametrize(
    ("resource", "label"),
    [
        ("nvidia.com/gpu", "nvidia.com/gpu.product"),
        ("nvidia.com/mig-1g.10gb", "nvidia.com/gpu.product"),
        ("amd.com/gpu", "amd.com/gpu.product-name"),
        ("example.com/gpu", None),
    ],
)
def test_gpu_products_are_looked_for_under_the_vendors_label(resource: str, label: str | None) -> None:
    assert gpu_product_label(resource) == label
    job = a_job().resources(gpu_resource_name=resource).scheduling(gpu_products=["A", "B"])
    for stage in Stage:
        spec = rendered(job, stage)["spec"]
        if label is None:
            assert "affinity" not in spec
            continue
        (term,) = spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
        assert term == {"matchExpressions": [{"key": label, "operator": "In", "values": ["A", "B"]}]}


def test_a_queued_job_waits_with_its_train_pod_alone() -> None:
    job = a_job().scheduling(queue_name="team-queue")
    assert rendered(job)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    assert "kueue" not in str(rendered(job, Stage.PREPARE)["metadata"])
    assert "pod-group" not in str(rendered(job)["metadata"])


def test_several_queued_nodes_are_let_in_together_and_each_attempt_anew() -> None:
    for attempt in (1, 2):
        for member in train_pods(TWO_NODES.scheduling(queue_name="team-queue"), attempt):
            labels, annotations = member["metadata"]["labels"], member["metadata"]["annotations"]
            assert labels["kueue.x-k8s.io/queue-name"] == "team-queue"
            assert labels["kueue.x-k8s.io/pod-group-name"] == f"demo-train-{attempt}"
            assert annotations["kueue.x-k8s.io/pod-group-total-count"] == "2"
            assert annotations["kueue.x-k8s.io/retriable-in-group"] == "false"
    assert "kueue" not in str([member["metadata"] for member in train_pods(TWO_NODES)])


def test_one_node_has_nothing_of_several() -> None:
    documents = render_all(a_job().build(), REPORTING)
    assert [document["kind"] for document in documents] == ["PersistentVolumeClaim", "ConfigMap", "Pod", "Pod"]
    for name in ("hostname", "subdomain", LABEL_NODE_RANK, ENV_NODES, ENV_NODE_RANK, ENV_RENDEZVOUS, "Affinity"):
        assert name not in str(documents)


def test_several_nodes_train_in_one_pod_each_and_prepare_in_one() -> None:
    documents = render_all(TWO_NODES.build(), REPORTING, attempt=3)
    names = [document["metadata"]["name"] for document in documents if document["kind"] == "Pod"]
    assert names == ["demo-prepare-1", "demo-train-3-0", "demo-train-3-1"]
    assert [member["metadata"]["labels"].get(LABEL_NODE_RANK) for member in documents[-3:]] == [None, "0", "1"]
    assert pod_name(TWO_NODES.build(), Stage.PREPARE, 1) == "demo-prepare-1"


def test_the_pods_of_an_attempt_meet_at_the_first_one() -> None:
    first, second = train_pods(TWO_NODES, attempt=3)
    assert [variables(member)[ENV_NODE_RANK] for member in (first, second)] == ["0", "1"]
    for member in (first, second):
        assert variables(member)[ENV_NODES] == "2"
        assert variables(member)[ENV_RENDEZVOUS] == "demo-train-3-0.demo-train:29400"
        assert member["spec"]["hostname"] == member["metadata"]["name"]
        assert member["spec"]["subdomain"] == "demo-train"


def test_the_service_names_train_pods_before_they_are_ready() -> None:
    found = service(TWO_NODES.build())
    assert found is not None
    assert found["metadata"]["name"] == "demo-train"
    assert found["spec"] == {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {LABEL_JOB: "demo", LABEL_STAGE: "train"},
        "ports": [{"name": "rendezvous", "port": 29400}],
    }
    labels = train_pods(TWO_NODES)[1]["metadata"]["labels"]
    assert found["spec"]["selector"].items() <= labels.items()
    assert service(a_job().build()) is None


@pytest.mark.parametrize(("job", "name"), [("llama", "llama-train"), ("7b-run", "sft-7b-run-train")])
def test_the_name_of_the_service_begins_with_a_letter(job: str, name: str) -> None:
    assert service_name(a_job(job).build()) == name


def test_each_train_pod_of_an_attempt_has_a_node_of_its_own() -> None:
    labels = {LABEL_JOB: "demo", LABEL_STAGE: "train", LABEL_ATTEMPT: "3"}
    for member in train_pods(TWO_NODES, attempt=3):
        (apart,) = member["spec"]["affinity"]["podAntiAffinity"][REQUIRED]
        assert apart == {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
        assert labels.items() <= member["metadata"]["labels"].items()


def test_the_train_pods_of_an_attempt_share_the_topology_that_is_asked_for() -> None:
    zone = "topology.kubernetes.io/zone"
    job = TWO_NODES.scheduling(topology_key=zone)
    for member in train_pods(job):
        (together,) = member["spec"]["affinity"]["podAffinity"][REQUIRED]
        assert together["topologyKey"] == zone
        assert together["labelSelector"]["matchLabels"].items() <= member["metadata"]["labels"].items()
    assert "podAffinity" not in train_pods(TWO_NODES)[0]["spec"]["affinity"]
    assert "affinity" not in rendered(job, Stage.PREPARE)["spec"]


def test_only_the_first_of_several_reports() -> None:
    first, second = train_pods(TWO_NODES)
    assert ENV_PROGRESS_URL in variables(first)
    assert not any(name.startswith("SFTJOB_PROGRESS") for name in variables(second))
    assert [any("projected" in volume for volume in p["spec"]["volumes"]) for p in (first, second)] == [True, False]

"""Namespaces: what a new one holds, and how a deleted one empties."""

import pytest

from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import CONFIG_MAPS, PODS, HttpApi, config_map, pod
from support.clients.wait import eventually

NAMESPACES = "/api/v1/namespaces"
LAB = {"metadata": {"name": "lab"}}


async def test_a_new_namespace_has_a_service_account_and_the_servers_certificate(
    api: HttpApi, sandbox: Sandbox
) -> None:
    created = await api.ok("POST", NAMESPACES, LAB)

    async def is_filled() -> bool:
        return (await api("GET", f"{NAMESPACES}/lab/serviceaccounts/default")).status == 200

    await eventually(is_filled, "there is no default service account")
    certificate = await api.ok("GET", f"{NAMESPACES}/lab/configmaps/kube-root-ca.crt")
    assert certificate["data"] == {"ca.crt": sandbox.ca}
    assert created["spec"] == {"finalizers": ["kubernetes"]}
    assert created["metadata"]["labels"] == {"kubernetes.io/metadata.name": "lab"}


async def test_a_deleted_namespace_ends_once_its_pods_have(api: HttpApi, sandbox: Sandbox) -> None:
    await api.ok("POST", NAMESPACES, LAB)
    lab = f"{NAMESPACES}/lab"

    async def is_filled() -> bool:
        return (await api("GET", f"{lab}/serviceaccounts/default")).status == 200

    await eventually(is_filled, "there is no default service account")
    await api.ok("POST", f"{lab}/configmaps", config_map())
    uid = (await api.ok("POST", f"{lab}/pods", pod()))["metadata"]["uid"]
    sandbox.store.bind_pod("lab", "one", uid, "node")

    deleted = await api.ok("DELETE", lab)
    assert (deleted["kind"], deleted["status"]["phase"]) == ("Namespace", "Terminating")

    async def only_the_pod_is_left() -> bool:
        gone = (await api("GET", f"{lab}/configmaps/one")).status == 404
        return gone and "deletionTimestamp" in (await api.ok("GET", f"{lab}/pods/one"))["metadata"]

    await eventually(only_the_pod_is_left, "the namespace does not empty")
    refused = await api("POST", f"{lab}/configmaps", config_map("two"))
    assert refused.refusal == (
        403,
        "Forbidden",
        'configmaps "two" is forbidden: unable to create new content in namespace lab because it is being terminated',
    )
    assert refused.body["details"]["causes"][0]["reason"] == "NamespaceTerminating"

    sandbox.store.finalize_pod("lab", "one", uid)

    async def is_gone() -> bool:
        return (await api("GET", lab)).status == 404

    await eventually(is_gone, "the namespace is still there")


@pytest.mark.parametrize("name", ["default", "kube-system"])
async def test_the_servers_own_namespaces_can_not_be_deleted(api: HttpApi, name: str) -> None:
    refused = await api("DELETE", f"{NAMESPACES}/{name}")

    text = f'namespaces "{name}" is forbidden: this namespace may not be deleted'
    assert refused.refusal == (403, "Forbidden", text)


async def test_a_claim_in_use_stays_until_its_pod_is_gone(api: HttpApi, sandbox: Sandbox) -> None:
    claims = f"{NAMESPACES}/default/persistentvolumeclaims"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await api.ok("POST", claims, {"metadata": {"name": "data"}, "spec": spec})
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    uid = (await api.ok("POST", PODS, pod(volumes=volumes)))["metadata"]["uid"]
    sandbox.store.bind_pod("default", "one", uid, "node")

    deleted = await api.ok("DELETE", f"{claims}/data")
    assert deleted["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    await api.ok("POST", CONFIG_MAPS, config_map())
    assert (await api("GET", f"{claims}/data")).status == 200

    await api.ok("DELETE", f"{PODS}/one?gracePeriodSeconds=0")

    async def is_gone() -> bool:
        return (await api("GET", f"{claims}/data")).status == 404

    await eventually(is_gone, "the claim is still there")


async def test_a_cluster_scoped_object_is_in_no_namespace(api: HttpApi) -> None:
    refused = await api("POST", "/api/v1/namespaces", {"metadata": {"name": "a", "namespace": "default"}})

    text = "the namespace of the provided object does not match the namespace sent on the request"
    assert refused.refusal == (400, "BadRequest", text)

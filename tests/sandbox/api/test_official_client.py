"""The official Python client, which the operator uses, against the sandbox."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from kubernetes.aio import client, config, watch

from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import pod, widget

WIDGETS = {"group": "example.dev", "version": "v1", "namespace": "default", "plural": "widgets"}


@pytest.fixture
async def official(sandbox: Sandbox) -> AsyncIterator[Any]:
    configuration = client.Configuration()
    await config.load_kube_config(config_file=str(sandbox.kubeconfig), client_configuration=configuration)
    async with client.ApiClient(configuration) as official:
        yield official


async def test_custom_objects_and_their_status(official: Any) -> None:
    api = client.CustomObjectsApi(official)

    await api.create_namespaced_custom_object(**WIDGETS, body=widget())
    patch = {"status": {"phase": "Done"}}
    await api.patch_namespaced_custom_object_status(
        **WIDGETS, name="one", body=patch, _content_type="application/merge-patch+json"
    )

    listed = await api.list_namespaced_custom_object(**WIDGETS)
    assert [(item["spec"]["size"], item["status"]["phase"]) for item in listed["items"]] == [(3, "Done")]


async def test_typed_objects_and_refusals(official: Any) -> None:
    api = client.CoreV1Api(official)

    created = await api.create_namespaced_pod("default", pod())
    with pytest.raises(client.ApiException) as refused:
        await api.create_namespaced_pod("default", pod())

    assert (created.status.phase, created.metadata.name) == ("Pending", "one")
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert 'pods \\"one\\" already exists' in refused.value.body


async def test_a_watch(official: Any) -> None:
    api = client.CoreV1Api(official)
    await api.create_namespaced_pod("default", pod())

    async with watch.Watch() as watcher:
        async for event in watcher.stream(api.list_namespaced_pod, "default", timeout_seconds=10):
            assert (event["type"], event["object"].metadata.name) == ("ADDED", "one")
            break


async def test_a_token_review(official: Any) -> None:
    core, authentication = client.CoreV1Api(official), client.AuthenticationV1Api(official)
    made = await core.create_namespaced_pod("default", pod())
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "one", "uid": made.metadata.uid}
    request = {"spec": {"audiences": ["reports"], "expirationSeconds": 3600, "boundObjectRef": reference}}
    token = (await core.create_namespaced_service_account_token("default", "default", request)).status.token

    review = await authentication.create_token_review({"spec": {"token": token, "audiences": ["reports"]}})

    assert review.status.authenticated
    assert review.status.user.extra["authentication.kubernetes.io/pod-uid"] == [made.metadata.uid]

"""DELETE: one object, a collection, finalizers and Pods' grace."""

from typing import Any

import pytest

from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import CONFIG_MAPS, MERGE, PODS, WIDGETS, HttpApi, config_map, pod, widget

ONE = f"{WIDGETS}/one"


async def test_deleting_says_what_was_deleted(api: HttpApi) -> None:
    uid = (await api.ok("POST", WIDGETS, widget()))["metadata"]["uid"]

    assert await api.ok("DELETE", ONE) == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": "one", "group": "example.dev", "kind": "widgets", "uid": uid},
    }
    assert (await api("GET", ONE)).refusal == (404, "NotFound", 'widgets.example.dev "one" not found')


async def test_an_object_with_finalizers_stays_until_the_last_one_is_gone(api: HttpApi) -> None:
    held = widget()
    held["metadata"]["finalizers"] = ["example.dev/hold"]
    await api.ok("POST", WIDGETS, held)

    deleted = await api.ok("DELETE", ONE)
    assert deleted["metadata"]["deletionTimestamp"]
    assert (deleted["metadata"]["deletionGracePeriodSeconds"], deleted["metadata"]["generation"]) == (0, 2)
    assert (await api("POST", WIDGETS, widget())).body["message"] == (
        'object is being deleted: widgets.example.dev "one" already exists'
    )

    await api.ok("PATCH", ONE, {"metadata": {"finalizers": None}}, MERGE)
    assert (await api("GET", ONE)).status == 404


@pytest.mark.parametrize(
    ("preconditions", "text"),
    [
        (
            {"uid": "other"},
            (
                "the UID in the precondition (other) does not match the UID in record ({uid}). "
                "The object might have been deleted and then recreated"
            ),
        ),
        (
            {"resourceVersion": "5"},
            (
                "the ResourceVersion in the precondition (5) does not match the ResourceVersion in record "
                "({revision}). The object might have been modified"
            ),
        ),
    ],
)
async def test_a_precondition_that_does_not_hold_is_a_conflict(
    api: HttpApi, preconditions: dict[str, str], text: str
) -> None:
    metadata = (await api.ok("POST", WIDGETS, widget()))["metadata"]

    refused = await api("DELETE", ONE, {"preconditions": preconditions})

    told = text.format(uid=metadata["uid"], revision=metadata["resourceVersion"])
    assert refused.refusal == (409, "Conflict", f'Operation cannot be fulfilled on Widget.example.dev "one": {told}')


async def test_a_collection_is_deleted_by_selector(api: HttpApi) -> None:
    for name, color in (("a", "red"), ("b", "blue"), ("c", "red")):
        body = config_map(name)
        body["metadata"]["labels"] = {"color": color}
        await api.ok("POST", CONFIG_MAPS, body)

    deleted = await api.ok("DELETE", f"{CONFIG_MAPS}?labelSelector=color=red")

    assert [item["metadata"]["name"] for item in deleted["items"]] == ["a", "c"]
    left = await api.ok("GET", f"{CONFIG_MAPS}?labelSelector=color")
    assert [item["metadata"]["name"] for item in left["items"]] == ["b"]


async def test_a_dry_run_deletes_nothing(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())

    await api.ok("DELETE", f"{ONE}?dryRun=All")

    assert await api.ok("GET", ONE) == created


async def test_an_unknown_propagation_policy_is_refused(api: HttpApi) -> None:
    refused = await api("DELETE", ONE, {"propagationPolicy": "Sideways"})

    assert refused.body["message"] == (
        'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Sideways": '
        'supported values: "Foreground", "Background", "Orphan", "nil"'
    )


async def _bound(api: HttpApi, sandbox: Sandbox, **spec: Any) -> Any:
    """A Pod that a node runs."""
    uid = (await api.ok("POST", PODS, pod(**spec)))["metadata"]["uid"]
    return sandbox.store.bind_pod("default", "one", uid, "node")


async def test_a_pod_without_a_node_goes_at_once(api: HttpApi) -> None:
    await api.ok("POST", PODS, pod())

    assert (await api.ok("DELETE", f"{PODS}/one"))["kind"] == "Pod"
    assert (await api("GET", f"{PODS}/one")).status == 404


async def test_a_running_pod_has_its_grace_and_goes_when_the_node_says_so(api: HttpApi, sandbox: Sandbox) -> None:
    bound = await _bound(api, sandbox, terminationGracePeriodSeconds=7)

    deleted = await api.ok("DELETE", f"{PODS}/one")
    assert deleted["metadata"]["deletionGracePeriodSeconds"] == 7
    assert await api.ok("DELETE", f"{PODS}/one") == deleted, "a second delete changes nothing"

    sandbox.store.finalize_pod("default", "one", bound["metadata"]["uid"])
    assert (await api("GET", f"{PODS}/one")).status == 404


async def test_a_second_delete_may_shorten_the_grace(api: HttpApi, sandbox: Sandbox) -> None:
    await _bound(api, sandbox, terminationGracePeriodSeconds=70)
    first = await api.ok("DELETE", f"{PODS}/one")

    second = await api.ok("DELETE", f"{PODS}/one?gracePeriodSeconds=5")
    longer = await api.ok("DELETE", f"{PODS}/one?gracePeriodSeconds=50")

    assert second["metadata"]["deletionGracePeriodSeconds"] == 5
    assert second["metadata"]["deletionTimestamp"] < first["metadata"]["deletionTimestamp"]
    assert longer == second


async def test_no_grace_removes_a_running_pod_at_once(api: HttpApi, sandbox: Sandbox) -> None:
    await _bound(api, sandbox)

    await api.ok("DELETE", f"{PODS}/one", {"gracePeriodSeconds": 0})

    assert (await api("GET", f"{PODS}/one")).status == 404


async def test_a_finished_pod_needs_no_grace(api: HttpApi, sandbox: Sandbox) -> None:
    bound = await _bound(api, sandbox)
    status = {**bound["status"], "phase": "Succeeded"}
    sandbox.store.update_status("pods", "default", "one", bound["metadata"]["uid"], status)

    await api.ok("DELETE", f"{PODS}/one")

    assert (await api("GET", f"{PODS}/one")).status == 404

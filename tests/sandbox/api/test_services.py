"""Services: kept with an address of the cluster or headless, and refused where more than that is asked for."""

import ipaddress

import pytest

from support.clients.http_api import HttpApi, Object

SERVICES = "/api/v1/namespaces/default/services"


def service(**spec: object) -> Object:
    given = {"clusterIP": "None", "selector": {"app": "a"}, "ports": [{"name": "meet", "port": 29400}], **spec}
    return {"metadata": {"name": "meet"}, "spec": {name: value for name, value in given.items() if value is not None}}


async def test_a_headless_service_is_stored_with_its_defaults(api: HttpApi) -> None:
    created = await api.ok("POST", SERVICES, service(publishNotReadyAddresses=True))

    assert created["spec"] == {
        "clusterIP": "None",
        "clusterIPs": ["None"],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "meet", "port": 29400, "protocol": "TCP", "targetPort": 29400}],
        "publishNotReadyAddresses": True,
        "selector": {"app": "a"},
        "sessionAffinity": "None",
        "type": "ClusterIP",
    }
    assert created["status"] == {"loadBalancer": {}}
    assert (await api.ok("GET", f"{SERVICES}/meet")) == created
    assert (await api("POST", SERVICES, service())).refusal[:2] == (409, "AlreadyExists")


async def test_a_service_gets_an_address_of_the_cluster_and_keeps_it(api: HttpApi) -> None:
    created = await api.ok("POST", SERVICES, service(clusterIP=None))
    address = created["spec"]["clusterIP"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network("10.96.0.0/12")
    assert created["spec"]["clusterIPs"] == [address]

    patch = {"spec": {"selector": {"app": "b"}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    changed = await api.ok("PATCH", f"{SERVICES}/meet", patch, headers=merge)
    assert changed["spec"] == {**created["spec"], "selector": {"app": "b"}}


@pytest.mark.parametrize("spec", [{"type": "NodePort"}, {"type": "LoadBalancer"}, {"clusterIP": "10.0.0.1"}])
async def test_a_service_with_a_chosen_or_outer_address_is_refused(api: HttpApi, spec: dict[str, str]) -> None:
    status, reason, text = (await api("POST", SERVICES, service(**spec))).refusal
    assert (status, reason) == (501, "NotImplemented")
    assert text.startswith("this emulator does not implement Services with a chosen or outer address: write")


async def test_a_headless_service_stays_headless(api: HttpApi) -> None:
    created = await api.ok("POST", SERVICES, service())

    refused = await api("PUT", f"{SERVICES}/meet", {**created, "spec": {**created["spec"], "clusterIP": "10.0.0.1"}})

    assert refused.refusal[:2] == (422, "Invalid")
    assert "spec.clusterIP" in refused.refusal[2]


async def test_a_service_is_deleted_by_its_uid_only(api: HttpApi) -> None:
    created = await api.ok("POST", SERVICES, service())

    kept = await api("DELETE", f"{SERVICES}/meet", {"preconditions": {"uid": "another"}})
    gone = await api("DELETE", f"{SERVICES}/meet", {"preconditions": {"uid": created["metadata"]["uid"]}})

    assert kept.refusal[:2] == (409, "Conflict")
    assert gone.status == 200
    assert (await api("GET", f"{SERVICES}/meet")).status == 404


async def test_services_are_discovered_as_on_a_real_server(api: HttpApi) -> None:
    resources = {r["name"]: r for r in (await api.ok("GET", "/api/v1"))["resources"]}

    found = resources["services"]
    assert (found["shortNames"], found["categories"], found["singularName"]) == (["svc"], ["all"], "service")
    assert "services/status" in resources

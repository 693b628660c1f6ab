"""Owner references: what goes with an owner, what keeps it, what it leaves behind."""

from typing import Any

import pytest

from support.clients.http_api import CONFIG_MAPS, WIDGETS, HttpApi, config_map, owned_by, widget
from support.clients.wait import eventually


async def _gone(api: HttpApi, path: str) -> None:
    async def is_gone() -> bool:
        return (await api("GET", path)).status == 404

    await eventually(is_gone, f"{path} is still there")


@pytest.fixture
async def owner(api: HttpApi) -> Any:
    return await api.ok("POST", WIDGETS, widget())


async def test_dependents_go_after_their_owner(api: HttpApi, owner: Any) -> None:
    child = await api.ok("POST", CONFIG_MAPS, owned_by(owner, config_map("child")))
    await api.ok("POST", CONFIG_MAPS, owned_by(child, config_map("grandchild")))

    await api.ok("DELETE", f"{WIDGETS}/one")

    await _gone(api, f"{CONFIG_MAPS}/child")
    await _gone(api, f"{CONFIG_MAPS}/grandchild")


async def test_one_of_two_owners_is_enough_to_stay(api: HttpApi, owner: Any) -> None:
    other = await api.ok("POST", WIDGETS, widget("two"))
    both = owned_by(owner, config_map("child"))
    both["metadata"]["ownerReferences"] += [
        {**owned_by(other, config_map())["metadata"]["ownerReferences"][0], "controller": False}
    ]
    await api.ok("POST", CONFIG_MAPS, both)

    await api.ok("DELETE", f"{WIDGETS}/one")

    async def has_one_owner() -> bool:
        references = (await api.ok("GET", f"{CONFIG_MAPS}/child"))["metadata"]["ownerReferences"]
        return [reference["name"] for reference in references] == ["two"]

    await eventually(has_one_owner, "the reference to the deleted owner is still there")


async def test_an_object_of_an_owner_that_never_was_goes(api: HttpApi, owner: Any) -> None:
    stranger = {**owner, "metadata": {**owner["metadata"], "uid": "00000000-0000-0000-0000-000000000000"}}

    await api.ok("POST", CONFIG_MAPS, owned_by(stranger, config_map("child")))

    await _gone(api, f"{CONFIG_MAPS}/child")


async def test_an_owner_in_another_namespace_does_not_count(api: HttpApi, owner: Any) -> None:
    path = "/api/v1/namespaces/kube-system/configmaps"

    await api.ok("POST", path, owned_by(owner, config_map("child")))

    await _gone(api, f"{path}/child")


async def test_orphaned_dependents_stay_without_the_reference(api: HttpApi, owner: Any) -> None:
    await api.ok("POST", CONFIG_MAPS, owned_by(owner, config_map("child")))

    await api.ok("DELETE", f"{WIDGETS}/one", {"propagationPolicy": "Orphan"})

    await _gone(api, f"{WIDGETS}/one")
    assert "ownerReferences" not in (await api.ok("GET", f"{CONFIG_MAPS}/child"))["metadata"]


async def test_in_the_foreground_the_owner_waits_for_those_that_block_it(api: HttpApi, owner: Any) -> None:
    held = owned_by(owner, config_map("child"), block=True)
    held["metadata"]["finalizers"] = ["example.dev/hold"]
    await api.ok("POST", CONFIG_MAPS, held)

    deleted = await api.ok("DELETE", f"{WIDGETS}/one", {"propagationPolicy": "Foreground"})
    assert deleted["metadata"]["finalizers"] == ["foregroundDeletion"]

    async def child_is_deleted() -> bool:
        return "deletionTimestamp" in (await api.ok("GET", f"{CONFIG_MAPS}/child"))["metadata"]

    await eventually(child_is_deleted, "the child was not deleted")
    assert (await api("GET", f"{WIDGETS}/one")).status == 200

    child = await api.ok("GET", f"{CONFIG_MAPS}/child")
    del child["metadata"]["finalizers"]
    await api.ok("PUT", f"{CONFIG_MAPS}/child", child)
    await _gone(api, f"{WIDGETS}/one")


async def test_in_the_foreground_an_owner_of_nobody_goes_at_once(api: HttpApi, owner: Any) -> None:
    await api.ok("DELETE", f"{WIDGETS}/one", {"propagationPolicy": "Foreground"})

    await _gone(api, f"{WIDGETS}/one")

"""PUT, and what an update may and may not change."""

from typing import Any

import pytest

from support.clients.http_api import CONFIG_MAPS, PODS, WIDGETS, HttpApi, config_map, pod, widget

ONE = f"{WIDGETS}/one"


async def test_a_changed_spec_counts_the_generation_up(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())

    updated = await api.ok("PUT", ONE, {**created, "spec": {"size": 4}})

    assert updated["metadata"]["generation"] == 2
    assert int(updated["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])
    assert updated["metadata"]["uid"] == created["metadata"]["uid"]


async def test_changed_labels_do_not(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())

    updated = await api.ok("PUT", ONE, {**created, "metadata": {**created["metadata"], "labels": {"a": "b"}}})

    assert (updated["metadata"]["generation"], updated["metadata"]["labels"]) == (1, {"a": "b"})


async def test_an_update_that_changes_nothing_makes_no_new_version(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())

    assert await api.ok("PUT", ONE, created) == created


async def test_status_is_kept_by_an_update_and_set_by_its_own_endpoint(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())

    with_status = await api.ok("PUT", f"{ONE}/status", {**created, "spec": {"size": 9}, "status": {"phase": "Done"}})
    updated = await api.ok("PUT", ONE, {**with_status, "spec": {"size": 5}, "status": {"phase": "Lost"}})

    assert (with_status["spec"]["size"], with_status["status"], with_status["metadata"]["generation"]) == (
        3,
        {"phase": "Done"},
        1,
    )
    assert (updated["spec"]["size"], updated["status"]) == (5, {"phase": "Done"})


async def test_two_writers_from_one_version_conflict(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())
    await api.ok("PUT", ONE, {**created, "spec": {"size": 4}})

    refused = await api("PUT", ONE, {**created, "spec": {"size": 5}})

    assert refused.refusal == (
        409,
        "Conflict",
        (
            'Operation cannot be fulfilled on widgets.example.dev "one": the object has been modified; '
            "please apply your changes to the latest version and try again"
        ),
    )


async def test_a_custom_resource_must_say_which_version_it_replaces(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    refused = await api("PUT", ONE, widget(size=4))

    assert refused.refusal == (
        422,
        "Invalid",
        (
            'widgets.example.dev "one" is invalid: metadata.resourceVersion: Invalid value: 0: '
            "must be specified for an update"
        ),
    )


async def test_a_config_map_need_not(api: HttpApi) -> None:
    await api.ok("POST", CONFIG_MAPS, config_map(a="1"))

    assert (await api.ok("PUT", f"{CONFIG_MAPS}/one", config_map(a="2")))["data"] == {"a": "2"}


async def test_another_uid_is_another_object(api: HttpApi) -> None:
    created = await api.ok("POST", CONFIG_MAPS, config_map())

    refused = await api("PUT", f"{CONFIG_MAPS}/one", {**created, "metadata": {"name": "one", "uid": "other"}})

    code, reason, message = refused.refusal
    assert (code, reason) == (409, "Conflict")
    assert message.endswith(f"UID in precondition: other, UID in object meta: {created['metadata']['uid']}")


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "message"),
    [
        ("PUT", f"{CONFIG_MAPS}/none", config_map("none"), 404, 'configmaps "none" not found'),
        ("PUT", f"{WIDGETS}/none/status", widget("none"), 404, 'widgets.example.dev "none" not found'),
        (
            "PUT",
            f"{CONFIG_MAPS}/other",
            config_map(),
            400,
            "the name of the object (one) does not match the name on the URL (other)",
        ),
    ],
)
async def test_refused_is_an_update_of(
    api: HttpApi, method: str, path: str, body: Any, code: int, message: str
) -> None:
    refused = await api(method, path, body)

    assert (refused.status, refused.body["message"]) == (code, message)


async def test_a_dry_run_changes_nothing(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())

    tried = await api.ok("PUT", f"{ONE}?dryRun=All", {**created, "spec": {"size": 4}})

    assert tried["spec"]["size"] == 4
    assert await api.ok("GET", ONE) == created


async def test_a_write_to_a_pods_status_keeps_its_spec(api: HttpApi) -> None:
    created = await api.ok("POST", PODS, pod())
    status = {"phase": "Running", "qosClass": "BestEffort"}

    updated = await api.ok("PUT", f"{PODS}/one/status", {**created, "spec": {}, "status": status})

    assert (updated["spec"], updated["status"]) == (created["spec"], status)

"""CustomResourceDefinitions: serving what they define, names that are taken, and their end."""

import copy
from typing import Any

import pytest
import yaml

from support.clients.http_api import MERGE, WIDGETS, WIDGETS_FILE, HttpApi, widget
from support.clients.wait import eventually

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGET_DEFINITION = f"{DEFINITIONS}/widgets.example.dev"


def _gadgets(**names: Any) -> dict[str, Any]:
    definition: dict[str, Any] = yaml.safe_load(WIDGETS_FILE.read_text())
    definition["metadata"]["name"] = "gadgets.example.dev"
    definition["spec"]["names"] = {"kind": "Gadget", "plural": "gadgets", **names}
    return definition


async def _conditions(api: HttpApi, name: str) -> dict[str, tuple[str, str, str]]:
    async def told() -> bool:
        status = (await api.ok("GET", f"{DEFINITIONS}/{name}")).get("status", {})
        return any(c["type"] == "Established" for c in status.get("conditions", ()))

    await eventually(told, f"nothing is said of {name}")
    conditions = (await api.ok("GET", f"{DEFINITIONS}/{name}"))["status"]["conditions"]
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in conditions}


async def test_an_accepted_definition_is_served(api: HttpApi) -> None:
    await api.ok("POST", DEFINITIONS, _gadgets())

    assert await _conditions(api, "gadgets.example.dev") == {
        "NamesAccepted": ("True", "NoConflicts", "no conflicts found"),
        "Established": ("True", "InitialNamesAccepted", "the initial names have been accepted"),
    }
    definition = await api.ok("GET", f"{DEFINITIONS}/gadgets.example.dev")
    assert definition["status"]["storedVersions"] == ["v1"]
    assert definition["status"]["acceptedNames"]["listKind"] == "GadgetList"
    assert (await api.ok("GET", "/apis/example.dev/v1/gadgets"))["kind"] == "GadgetList"


@pytest.mark.parametrize(
    ("names", "reason", "taken"),
    [
        ({"shortNames": ["wdg"]}, "ShortNamesConflict", "wdg"),
        ({"singular": "widget"}, "SingularConflict", "widget"),
        ({"kind": "Widget", "singular": "gadget", "listKind": "GadgetList"}, "KindConflict", "Widget"),
        ({"listKind": "WidgetList"}, "ListKindConflict", "WidgetList"),
    ],
)
async def test_a_name_that_is_taken_is_not_accepted(
    api: HttpApi, names: dict[str, Any], reason: str, taken: str
) -> None:
    await api.ok("POST", DEFINITIONS, _gadgets(**names))

    conditions = await _conditions(api, "gadgets.example.dev")
    assert conditions["NamesAccepted"] == ("False", reason, f'"{taken}" is already in use')
    assert conditions["Established"][0] == "False"
    assert (await api("GET", "/apis/example.dev/v1/gadgets")).status == 404


async def test_a_definition_that_is_not_structural_is_refused(api: HttpApi) -> None:
    broken = copy.deepcopy(_gadgets())
    del broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["type"]

    refused = await api("POST", DEFINITIONS, broken)

    assert refused.refusal[:2] == (422, "Invalid")
    assert any(cause["field"].endswith("properties[size].type") for cause in refused.body["details"]["causes"])


async def test_a_changed_schema_holds_from_then_on(api: HttpApi) -> None:
    definition = await api.ok("GET", WIDGET_DEFINITION)
    size = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]
    size["minimum"] = 10
    await api.ok("PUT", WIDGET_DEFINITION, definition)

    async def is_refused() -> bool:
        return (await api("POST", f"{WIDGETS}?dryRun=All", widget(size=9))).status == 422

    await eventually(is_refused, "the new minimum does not hold")
    assert (await api.ok("GET", WIDGET_DEFINITION))["metadata"]["generation"] == 2


async def test_a_deleted_definition_takes_its_objects_along(api: HttpApi) -> None:
    held = widget()
    held["metadata"]["finalizers"] = ["example.dev/hold"]
    await api.ok("POST", WIDGETS, held)

    await api.ok("DELETE", WIDGET_DEFINITION)

    async def is_ending() -> bool:
        conditions = (await api.ok("GET", WIDGET_DEFINITION))["status"]["conditions"]
        return any(c["type"] == "Terminating" for c in conditions)

    await eventually(is_ending, "the definition does not say that it ends")
    await api.ok("PATCH", f"{WIDGETS}/one", {"metadata": {"finalizers": None}}, MERGE)

    async def is_gone() -> bool:
        return (await api("GET", WIDGET_DEFINITION)).status == 404

    await eventually(is_gone, "the definition is still there")
    assert (await api("GET", WIDGETS)).text == "404 page not found\n"

"""The committed CRD obeys the API server's rules for structural schemas, and ours about bounds and descriptions."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from sftjob_operator.api.crd import definition
from support.jobs.manifests import DEFINITION

Node = dict[str, Any]
CRD = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
OWN_METADATA = {"apiVersion", "kind", "metadata"}


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every schema node with its path; what Kubernetes itself defines at the root is left out."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        if path or name not in OWN_METADATA:
            yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from walk(node[key], f"{path}.{key}")


def has_null_default(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_null_default(item) for item in value.values())
    return value is None


def is_option(node: Node, path: str) -> bool:
    """An entry of a map of options that belong to a library or a template: a value of any type."""
    is_map = path.endswith((".extra.additionalProperties", ".chatTemplateKwargs.additionalProperties"))
    return is_map and node == {"x-kubernetes-preserve-unknown-fields": True}


def is_unbounded(node: Node, path: str) -> bool:
    """Strings, lists, maps and integers everywhere; floating-point numbers in spec, since a status tells what is.

    What a library's own option holds cannot be bounded here: the operator does it.
    """
    if "enum" in node or "properties" in node or node.get("format") == "date-time" or is_option(node, path):
        return False
    limits = {"string": "maxLength", "array": "maxItems", "object": "maxProperties", "integer": "maximum"}
    if path.startswith(".spec"):
        limits["number"] = "maximum"
    kind = "string" if node.get("x-kubernetes-int-or-string") else node["type"]
    low = kind in ("integer", "number") and limits.get(kind) is not None and "minimum" not in node
    return (kind in limits and limits[kind] not in node) or low


Check = Callable[[str, Node], bool]
RULES: dict[str, tuple[Check, Node]] = {
    "no references": (lambda _, n: bool({"$ref", "$defs", "definitions", "id"} & set(n)), {"$ref": "#/$defs/X"}),
    "one type": (
        lambda p, n: (
            not n.get("x-kubernetes-int-or-string") and not isinstance(n.get("type"), str) and not is_option(n, p)
        ),
        {"type": ["string", "null"]},
    ),
    "no null": (lambda _, n: n.get("type") == "null" or "nullable" in n, {"type": "string", "nullable": True}),
    "no unions but int-or-string": (
        lambda _, n: (
            bool({"oneOf", "allOf", "not"} & set(n))
            or ("anyOf" in n and n["anyOf"] != [{"type": "integer"}, {"type": "string"}])
        ),
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    "no null in a default": (
        lambda _, n: "default" in n and has_null_default(n["default"]),
        {"type": "object", "default": {"x": None}},
    ),
    "exclusive bounds are flags": (
        lambda _, n: any(
            flag in n and (n[flag] is not True or bound not in n)
            for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum"))
        ),
        {"type": "number", "exclusiveMinimum": 0},
    ),
    "no const": (lambda _, n: "const" in n, {"type": "string", "const": "x"}),
    "no discriminator": (lambda _, n: "discriminator" in n, {"type": "object", "discriminator": {}}),
    "items are one schema": (
        lambda _, n: "prefixItems" in n or (n.get("type") == "array" and not isinstance(n.get("items"), dict)),
        {"type": "array", "prefixItems": []},
    ),
    "no uniqueItems": (lambda _, n: "uniqueItems" in n, {"type": "array", "items": {}, "uniqueItems": True}),
    "additionalProperties is a schema, and alone": (
        lambda _, n: (
            "additionalProperties" in n and (not isinstance(n["additionalProperties"], dict) or "properties" in n)
        ),
        {"type": "object", "properties": {}, "additionalProperties": False},
    ),
    "lists say how they merge": (
        lambda _, n: n.get("type") == "array" and n.get("x-kubernetes-list-type") not in ("atomic", "set", "map"),
        {"type": "array", "items": {}, "maxItems": 1},
    ),
    "everything is bounded": (lambda p, n: is_unbounded(n, p), {"type": "integer", "maximum": 3}),
    "patterns are RE2": (lambda _, n: "(?" in n.get("pattern", ""), {"type": "string", "pattern": "a(?=b)"}),
    "every field is described": (
        lambda p, n: not p.endswith(("items", "additionalProperties")) and not n.get("description"),
        {"type": "string"},
    ),
    "descriptions are sentences of one line": (
        lambda _, n: "\n" in n.get("description", "") or not n.get("description", ".").endswith("."),
        {"type": "string", "description": "no end"},
    ),
    "defaults are in spec alone": (lambda p, n: p.startswith(".status") and "default" in n, {"default": 1}),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_definition_obeys(rule: str) -> None:
    check, _ = RULES[rule]
    assert [path for path, node in walk(SCHEMA) if check(path, node)] == []


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_sees_a_violation(rule: str) -> None:
    check, broken = RULES[rule]
    assert check(".status.x" if "alone" in rule else ".spec.x", broken)


def test_the_committed_file_is_what_the_models_give() -> None:
    assert definition() == CRD


def test_the_definition_fits_the_annotation_of_client_side_apply() -> None:
    assert len(json.dumps(CRD, separators=(",", ":")).encode()) < 256 * 1024


def test_metadata_is_left_to_kubernetes() -> None:
    assert SCHEMA["properties"]["metadata"] == {"type": "object"}
    assert SCHEMA["required"] == ["spec"]


def values(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Every scalar value of a YAML document; keys are left out."""
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from values(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from values(item)
    elif isinstance(node, yaml.ScalarNode):
        yield node


def test_every_string_value_is_quoted() -> None:
    document = yaml.compose(DEFINITION.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert document is not None
    texts = [value for value in values(document) if value.tag == "tag:yaml.org,2002:str"]
    assert len(texts) > 500
    assert {value.style for value in texts} == {'"'}


def test_no_key_is_read_as_a_boolean() -> None:
    words = {"y", "n", "yes", "no", "on", "off", "true", "false"}
    assert [path for path, _ in walk(SCHEMA) if path.rpartition(".")[2].lower() in words] == []


def test_names_and_subresources() -> None:
    assert CRD["metadata"]["name"] == "sftjobs.sftjob.dev"
    assert CRD["spec"]["names"]["shortNames"] == ["sft"]
    assert "categories" not in CRD["spec"]["names"]  # `kubectl get all` stays about workloads
    assert (VERSION["name"], VERSION["served"], VERSION["storage"]) == ("v1alpha1", True, True)
    assert VERSION["subresources"] == {"status": {}}


def test_columns_in_their_order() -> None:
    columns = VERSION["additionalPrinterColumns"]
    assert [c["name"] for c in columns if c["priority"] == 0] == [
        *("Phase", "Reason", "Step", "Progress", "Loss", "Eval", "ETA", "GPUs", "Age")
    ]
    assert [c["name"] for c in columns if c["priority"] == 1] == ["Model", "Method", "Tok/s"]


@pytest.mark.parametrize("column", VERSION["additionalPrinterColumns"], ids=lambda column: column["name"])
def test_a_column_shows_a_field_that_exists_with_its_type(column: dict[str, Any]) -> None:
    path = re.sub(r"\[\?\(.*?\)\]", ".items", column["jsonPath"])
    kinds = {path: node.get("type") for path, node in walk(SCHEMA)} | {".metadata.creationTimestamp": "date"}
    assert kinds[path] == column["type"]


def test_nothing_within_a_list_has_a_default() -> None:
    """A default there makes a list differ from the manifest's, and every apply again a change for kubectl."""
    found = [path for path, node in walk(SCHEMA) if ".items" in path and "default" in node]
    assert found == []

"""The CEL rules: cheap enough for the API server, with a sentence for the user, and each shown by a bad manifest."""

import math
import re
from typing import Any

import pytest

from sftjob_operator.api.crd import resource_schema
from support.jobs.manifests import INVALID, expected_sentences

COST_LIMIT = 10_000_000
"""The API server's limit for one expression (StaticEstimatedCostLimit)."""
LONGEST_REQUEST = 3 * 1024 * 1024
"""What the API server takes for a string without a bound: int-or-string values and metadata.name have none."""


def rules(node: dict[str, Any], path: str = "", copies: int = 1) -> list[tuple[str, dict[str, Any], str, str, int]]:
    """(path, node, expression, message, how many such nodes an object can have) of every rule."""
    own = [(path, node, entry["rule"], entry["message"], copies) for entry in node.get("x-kubernetes-validations", [])]
    for name, child in node.get("properties", {}).items():
        own += rules(child, f"{path}.{name}", copies)
    if "items" in node:
        own += rules(node["items"], f"{path}[]", copies * node["maxItems"])
    if "additionalProperties" in node:
        own += rules(node["additionalProperties"], f"{path}{{}}", copies * node["maxProperties"])
    return own


ALL = rules(resource_schema())
CASES = pytest.mark.parametrize(
    ("path", "node", "expression", "message", "copies"), ALL, ids=[f"{rule[0]}: {rule[3][:40]}" for rule in ALL]
)


def unbounded(node: dict[str, Any], path: str) -> list[str]:
    """Collections at or below a node whose size the API server could not estimate."""
    found = [
        path
        for kind, limit in (("string", "maxLength"), ("array", "maxItems"))
        if node.get("type") == kind and limit not in node and "enum" not in node
    ]
    if "additionalProperties" in node and "maxProperties" not in node:
        found.append(path)
    for name, child in node.get("properties", {}).items():
        found += unbounded(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            found += unbounded(node[key], f"{path}.{key}")
    return found


@CASES
def test_a_rule_touches_bounded_collections_only(
    path: str, node: dict[str, Any], expression: str, message: str, copies: int
) -> None:
    if path:
        assert unbounded(node, path) == []
    else:
        assert set(re.findall(r"self\.(\w+)", expression)) == {"metadata"}  # at the root: the name and nothing else


@CASES
def test_matching_stays_far_below_the_cost_limit(
    path: str, node: dict[str, Any], expression: str, message: str, copies: int
) -> None:
    """`matches` costs length/10 times a quarter of the pattern's length; a character may have four bytes."""
    bounded = node.get("type") == "string"
    length = node["maxLength"] * 4 if bounded else LONGEST_REQUEST
    patterns = re.findall(r"\.matches\('(.*?)'\)", expression)
    cost = sum(math.ceil(length * 0.1) * math.ceil(len(pattern) * 0.25) for pattern in patterns) * copies
    assert cost < COST_LIMIT * 0.6


@CASES
def test_a_rule_says_what_to_write_instead(
    path: str, node: dict[str, Any], expression: str, message: str, copies: int
) -> None:
    assert re.search(r"must|remove|write|needs|shorten|create", message)
    assert "\n" not in message
    assert not message.endswith(".")
    assert not path.startswith(".status"), "status is the operator's own"


OF_CREATION = sorted({message for _, _, expression, message, _ in ALL if "oldSelf" not in expression})
"""Messages of rules that a new object can break; tests/crd/test_immutable.py breaks the others."""


@pytest.mark.parametrize("message", OF_CREATION)
def test_a_rule_is_shown_by_a_bad_manifest(message: str) -> None:
    sentences = [sentence for manifest in INVALID for sentence in expected_sentences(manifest)]
    assert any(sentence.endswith(f": {message}") for sentence in sentences)

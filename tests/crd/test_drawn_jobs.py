"""Jobs drawn from the schema are accepted: the rules forbid what they name, and nothing besides."""

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from sftjob_contract.names import VERSION
from sftjob_operator.api import SFTJobSpec
from sftjob_operator.api.crd import definition, resource_schema
from sftjob_sandbox.kinds.custom import CustomSchema, custom_schema
from support.checks.kube_schemas import told
from support.jobs.strategies import valid_manifests


@functools.cache
def served() -> CustomSchema:
    """The resource as the API server has compiled it."""
    return custom_schema(definition(), VERSION)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(manifest=valid_manifests())
def test_a_drawn_job_is_accepted_and_the_server_s_defaults_are_the_models(manifest: dict[str, Any]) -> None:
    pruned, unknown = served().prune(manifest)
    stored = served().default(pruned)
    assert unknown == []
    assert told(served().validate(stored, None)) == []
    assert spec_of(stored) == spec_of(manifest)


def spec_of(manifest: dict[str, Any]) -> SFTJobSpec:
    """The typed spec of a manifest."""
    return SFTJobSpec.model_validate(manifest["spec"])


def leaves(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of every field without fields of its own."""
    for name, field in schema.get("properties", {}).items():
        nested = field.get("items", field)
        if nested.get("properties"):
            yield from leaves(nested, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


def given_leaves(value: Any, path: str) -> Iterator[str]:
    """Paths of what a manifest says."""
    yield path
    items = value if isinstance(value, list) else ()
    for item in items:
        yield from given_leaves(item, path)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from given_leaves(item, f"{path}.{key}")


@pytest.mark.slow
def test_every_field_of_the_spec_is_drawn_sometime() -> None:
    seen: set[str] = set()

    @settings(max_examples=1000, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(manifest=valid_manifests())
    def draw(manifest: dict[str, Any]) -> None:
        seen.update(given_leaves(manifest["spec"], "spec"))

    draw()
    assert set(leaves(resource_schema()["properties"]["spec"], "spec")) - seen == set()

"""No field of the spec is for show: changing any of them changes the run config or a rendered object."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sftjob_contract.codec import to_json
from sftjob_contract.names import Stage
from sftjob_operator.api import parse_job
from sftjob_operator.api.crd import resource_schema
from sftjob_operator.render import RenderSettings, config_map, pod, run_config, volume_claim
from support.builders import a_job

SETTINGS = RenderSettings(trainer_image="trainer:1", progress_url="https://operator", progress_ca="PEM")
DECIDED_BY_RECONCILE = {"failurePolicy.maxRetries", "failurePolicy.backoffSeconds"}
"""Not rendered: they steer when the next Pod is made. tests/unit/reconcile has the tables."""

TOKEN = {"name": "hub", "key": "token"}
HUB_MODEL = (
    a_job()
    .model("hf://acme/model", revision="a", token_secret_ref=TOKEN)
    .dataset("hf://acme/data/t.jsonl", revision="a", evaluation={"fraction": 0.1, "source": "/e"}, max_samples=5)
    .qlora()
    .scheduling(tolerations=[{"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}])
)
HUB_DATASET = a_job().dataset("hf://acme/data/t.jsonl", token_secret_ref=TOKEN)
BASES = (HUB_MODEL.body(), HUB_DATASET.body())
PARTS_WITH_REQUIRED_FIELDS = {"tokenSecretRef", "tolerations"}
SPECIAL = {
    "model.source": "pvc://models/base",
    "dataset.source": "pvc://data/train.jsonl",
    "dataset.evaluation.source": "pvc://data/test.jsonl",
    "scheduling.nodeSelector": {"changed": "yes"},
    "storage.accessModes": ["ReadWriteMany"],
}


OTHER: dict[str, Callable[[Any], Any]] = {
    "boolean": lambda present: not present,
    "integer": lambda present: 3 if present in (None, 1, 2) else present - 1,
    "number": lambda present: (present or 0.5) / 2,
    "array": lambda _: ["changed"],
    "quantity": lambda _: "7",
    "string": lambda _: "changed",
}
"""By type, a valid value that differs from the present one."""


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field without fields of its own; items of a list of objects are reached through its first one."""
    for name, field in schema["properties"].items():
        here = f"{path}.{name}" if path else name
        if field.get("type") == "array" and "properties" in field["items"]:
            yield from leaves(field["items"], f"{here}.0")
        elif field.get("properties"):
            yield from leaves(field, here)
        else:
            yield here, field


LEAVES = dict(leaves(resource_schema()["properties"]["spec"]))


def another(path: str, schema: dict[str, Any], present: Any) -> Any:
    """A valid value that differs from the present one."""
    if path in SPECIAL:
        return SPECIAL[path]
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != present)
    return OTHER[schema.get("type", "quantity")](present)


def outputs(body: dict[str, Any]) -> list[Any]:
    job = parse_job(body)
    stages = [pod(job, stage, 1, SETTINGS) for stage in Stage]
    return [to_json(run_config(job)), volume_claim(job), config_map(job, SETTINGS), *stages]


def changed(body: dict[str, Any], path: str, schema: dict[str, Any]) -> dict[str, Any] | None:
    """`body` with another value at `path`; None where that part of the spec is not in use."""
    body = copy.deepcopy(body)
    node: Any = body["spec"]
    *parents, last = path.split(".")
    for parent in parents:
        if parent in PARTS_WITH_REQUIRED_FIELDS and parent not in node:
            return None
        node = node[0] if parent == "0" else node.setdefault(parent, {})
    node[last] = another(path, schema, node.get(last, schema.get("default")))
    return body


def reaches_output(path: str, schema: dict[str, Any]) -> bool:
    mutated = ((base, changed(base, path, schema)) for base in BASES)
    return any(other is not None and outputs(base) != outputs(other) for base, other in mutated)


@pytest.mark.parametrize("path", sorted(set(LEAVES) - DECIDED_BY_RECONCILE - {"method.full"}))
def test_a_changed_field_changes_what_is_rendered(path: str) -> None:
    assert reaches_output(path, LEAVES[path])


@pytest.mark.parametrize("path", sorted(DECIDED_BY_RECONCILE))
def test_what_reconcile_decides_by_is_not_rendered(path: str) -> None:
    assert not reaches_output(path, LEAVES[path])


def test_full_and_lora_render_differently() -> None:
    assert outputs(a_job().full().body()) != outputs(a_job().lora().body())

"""No field of the spec is for show: changing any of them changes what is rendered, or a named module reads it."""

import ast
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sftjob_operator
from sftjob_contract.codec import to_json
from sftjob_operator.api import parse_job, to_dict
from sftjob_operator.api.crd import resource_schema
from sftjob_operator.render import run_config
from support.checks.rendering import REPORTING, render_all
from support.jobs.builders import JobBuilder, a_job

READERS = {
    "suspend": ("reconcile/attempts/deadline.py", "suspend"),
    "deadlineSeconds": ("reconcile/attempts/deadline.py", "deadline_seconds"),
    "ttlSecondsAfterFinished": ("reconcile/cleanup.py", "ttl_seconds_after_finished"),
    "failurePolicy.maxRetries": ("reconcile/checks/retries.py", "max_retries"),
    "failurePolicy.maxInterruptions": ("reconcile/checks/retries.py", "max_interruptions"),
    "failurePolicy.backoffSeconds": ("reconcile/checks/retries.py", "backoff_seconds"),
    "resources.gpuMemory": ("reconcile/spec/plan_status.py", "gpu_memory"),
}
"""Not rendered, since they decide when a Pod is made or deleted: the module that reads each, and as what."""

TOKEN = {"name": "hub", "key": "token"}
TEMPLATE = {"template": {"text": "{{ a }}"}}
FUNCTION = {"function": {"configMapKeyRef": {"name": "rows", "key": "rows.py"}}}
VALIDATION = {"regex": "a", "syntax": "json", "column": "b", "command": ["true"], "timeoutSeconds": 5}
ON_THE_HUB = (
    a_job()
    .model(
        "hf://acme/model",
        revision="a",
        token_secret_ref=TOKEN,
        chat_template={"name": "chatml"},
        rope_scaling={"type": "yarn", "factor": 4},
    )
    .dataset(
        "hf://acme/data",
        revision="a",
        subset="b",
        on_invalid_row="Skip",
        preprocessing=TEMPLATE,
        validation=VALIDATION,
        token_secret_ref=TOKEN,
        evaluation={"split": "test"},
    )
    .qlora()
    .set("method.distillation", {"teacher": {"source": "hf://acme/large", "revision": "a"}})
    .training(early_stopping={}, packing=True)
    .set("output", {"hub": {"repository": "acme/out", "tokenSecretRef": TOKEN}})
    .set("tracking", {"wandb": {"project": "p", "entity": "e", "baseUrl": "https://w", "apiKeySecretRef": TOKEN}})
    .set("imagePullSecrets", [{"name": "registry"}])
    .set("podMetadata", {"labels": {"team": "a"}, "annotations": {"example.com/note": "a"}})
    .set("env", [{"name": "A", "value": "1"}])
    .scheduling(tolerations=[{"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}])
)
ROWS = {"source": "s3://data/rows", "columns": {}, "preprocessing": TEMPLATE, "validation": VALIDATION}
FROM_STORES = (
    a_job()
    .model(
        "s3://models/base",
        secret_ref={"name": "models"},
        chat_template={"jinja": "{{ messages }}"},
        rope_scaling={"type": "llama3", "factor": 4},
    )
    .set("dataset", {"sources": [ROWS], "secretRef": {"name": "data"}})
    .full()
    .checkpoints(resume_from={"sftJob": "older", "step": 5})
    .set("output", {"upload": {"uri": "s3://out/x", "secretRef": {"name": "out"}}})
    .set("tracking", {"mlflow": {"trackingUri": "https://m", "secretRef": {"name": "mlflow"}}})
    .set("env", [{"name": "A", "valueFrom": {"secretKeyRef": TOKEN}}])
)
FROM_CLAIMS = (
    a_job()
    .model("pvc://models/base", chat_template={"configMapKeyRef": {"name": "templates", "key": "chat"}})
    .dataset(
        "hf://acme/rows", token_secret_ref=TOKEN, preprocessing=FUNCTION, evaluation={"source": "pvc://data/e.jsonl"}
    )
    .checkpoints(resume_from={"source": "pvc://kept/checkpoint-5"})
    .storage(access_modes=["ReadWriteMany"])
    .resources(nodes=2, gpus=8)
)
WITH_CODE = a_job().set("dataset", {"sources": [{"source": "/rows", "preprocessing": FUNCTION}]})
BASES: dict[str, JobBuilder] = {
    "hub": ON_THE_HUB,
    "stores": FROM_STORES,
    "claims": FROM_CLAIMS,
    "code": WITH_CODE,
}
SPECIAL = {
    "model.source": "pvc://other/base",
    "dataset.sources.0.format": "messages",
    "storage.accessModes": ["ReadWriteOnce", "ReadWriteMany"],
    "evaluation.metrics": ["bleu"],
    "scheduling.nodeSelector": {"changed": "yes"},
    "method.lora.extra": {"changed": True},
    "method.lora.loraplusLrRatio": 16,
    "training.extra": {"changed": True},
    "model.chatTemplateKwargs": {"changed": True},
}
OTHER: dict[str, Callable[[Any], Any]] = {
    "boolean": lambda present: not present,
    "integer": lambda present: 3 if present in (None, 1, 2) else present - 1,
    "number": lambda present: (present or 0.5) / 2,
    "array": lambda _: ["changed"],
    "quantity": lambda _: "7",
    "string": lambda _: "changed",
    "object": lambda _: {"example.com/changed": "a"},
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


def defaulted(base: JobBuilder) -> dict[str, Any]:
    """The job as stored: every section with a default is there."""
    return {**base.body(), "spec": to_dict(base.build().spec)}


def changed(body: dict[str, Any], path: str) -> dict[str, Any] | None:
    """`body` with another value at `path`; None where that part of the spec is not in use."""
    body = copy.deepcopy(body)
    node: Any = body["spec"]
    *parents, last = path.split(".")
    for parent in parents:
        node = (node or None) and node[0] if parent == "0" else node.get(parent)
        if node is None:
            return None
    node[last] = another(path, LEAVES[path], node.get(last))
    return body


def outputs(body: dict[str, Any]) -> list[Any]:
    job = parse_job(body)
    return [to_json(run_config(job)), *render_all(job, REPORTING)]


def reaches_output(path: str) -> bool:
    bodies = [defaulted(base) for base in BASES.values()]
    mutated = [(body, other) for body in bodies if (other := changed(body, path)) is not None]
    assert mutated, f"no job here uses {path}: add one that does"
    return any(outputs(body) != outputs(other) for body, other in mutated)


@pytest.mark.parametrize("path", sorted(set(LEAVES) - set(READERS) - {"method.full"}))
def test_a_changed_field_changes_what_is_rendered(path: str) -> None:
    assert reaches_output(path)


@pytest.mark.parametrize("path", READERS)
def test_a_field_that_is_not_rendered_is_read_by_the_module_that_is_named(path: str) -> None:
    assert not reaches_output(path)
    module, name = READERS[path]
    tree = ast.parse((Path(sftjob_operator.__file__).parent / module).read_text(encoding="utf-8"))
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    assert name in read, f"{module} does not read spec.{path}"


def test_full_and_lora_render_differently() -> None:
    assert outputs(a_job().full().body()) != outputs(a_job().lora().body())


def test_every_job_here_is_rendered_in_another_way() -> None:
    assert len({to_json(run_config(base.build())) for base in BASES.values()}) == len(BASES)

"""Objects sent to the sandbox's schemas as a request would be, and what is said about them, as lines of text."""

from collections.abc import Iterable
from typing import Any

from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.schemas import ObjectSchema
from sftjob_sandbox.apply.patches import merge_patch
from sftjob_sandbox.kinds.builtin import builtin_schema

Object = dict[str, Any]

POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "trainer", "namespace": "team-a"},
    "spec": {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "serviceAccountName": "default",
        "containers": [{"name": "main", "image": "registry.example/trainer:1", "command": ["train"]}],
    },
}
CLAIM: Object = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "work", "namespace": "team-a"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}},
}
CONFIG_MAP: Object = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "plan", "namespace": "team-a"},
    "data": {"plan.json": "{}"},
}
SECRET: Object = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "hub", "namespace": "team-a"},
    "data": {"token": "c2VjcmV0"},
}


def told(causes: Iterable[Cause]) -> list[str]:
    """`FieldValueInvalid spec.a: Invalid value: ...`, in the server's order."""
    return [f"{cause.reason} {cause.field}: {cause.message}" for cause in causes]


def schema_of(obj: Object) -> ObjectSchema:
    """The schema of a built-in object's kind."""
    group, _, version = obj["apiVersion"].rpartition("/")
    return builtin_schema(group, version, obj["kind"])


def changed(base: Object, change: Object) -> Object:
    """`base` after a JSON merge patch."""
    return merge_patch(base, change)


def stored(obj: Object, schema: ObjectSchema | None = None) -> Object:
    """The object as decoded and defaulted."""
    schema = schema or schema_of(obj)
    return schema.default(schema.prune(obj)[0])


def create_refusals(obj: Object, schema: ObjectSchema | None = None) -> list[str]:
    """What is wrong with a new object."""
    schema = schema or schema_of(obj)
    return told(schema.validate(stored(obj, schema), None))


def update_refusals(old: Object, new: Object, schema: ObjectSchema | None = None) -> list[str]:
    """What is wrong with replacing `old` by `new`; both get the resourceVersion that an update carries."""
    schema = schema or schema_of(old)
    version = {"metadata": {"resourceVersion": "7"}}
    before = stored(changed(old, version), schema)
    return told(schema.validate(stored(changed(new, version), schema), before))

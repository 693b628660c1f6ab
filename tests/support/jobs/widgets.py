"""A custom resource whose schema is what a test is about."""

import functools
import json
from typing import Any

from sftjob_sandbox.crd.definition import check_definition
from sftjob_sandbox.kinds.custom import CustomSchema, custom_schema
from support.checks.kube_schemas import create_refusals, stored, told, update_refusals

Object = dict[str, Any]


def definition(spec: Object | None = None, **version: Any) -> Object:
    """A CustomResourceDefinition of widgets.example.com; `spec` is the schema of a widget's spec."""
    schema = {"type": "object", "properties": {"spec": spec or {"type": "object"}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **version}
            ],
            "conversion": {"strategy": "None"},
        },
    }


def definition_refusals(crd: Object) -> list[str]:
    """What is said about a definition, with its defaults."""
    return told(check_definition(stored(crd)))


def spec_refusals(spec: Object) -> list[str]:
    """What is said about a schema of `spec`, its path cut off."""
    prefix = "spec.validation.openAPIV3Schema.properties[spec]"
    return [line.replace(prefix, "~") for line in definition_refusals(definition(spec))]


def widget_schema(spec: Object) -> CustomSchema:
    """The compiled schema of widgets whose spec has this schema."""
    return _compiled(json.dumps(spec))


@functools.cache
def _compiled(spec: str) -> CustomSchema:
    return custom_schema(definition(json.loads(spec)), "v1")


def widget(spec: Any = None, **more: Any) -> Object:
    """A widget; without a spec it has none."""
    given = {} if spec is None else {"spec": spec}
    metadata = {"name": "a", "namespace": "team-a"}
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": metadata, **given, **more}


def refusals(schema: Object, spec: Any) -> list[str]:
    """What is wrong with a new widget."""
    return create_refusals(widget(spec), widget_schema(schema))


def change_refusals(schema: Object, old: Any, new: Any) -> list[str]:
    """What is wrong with changing a widget's spec."""
    return update_refusals(widget(old), widget(new), widget_schema(schema))

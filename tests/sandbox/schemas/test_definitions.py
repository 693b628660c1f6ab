"""What is said about CustomResourceDefinitions."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from support.checks.kube_schemas import changed, create_refusals, update_refusals
from support.jobs.widgets import Object, definition, definition_refusals, spec_refusals

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
LIST = {"type": "array", "items": STRING}
UNSUPPORTED = "this local server does not support the field: remove it"
DNS1035 = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character,"
    " and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is"
    " '[a-z]([-a-z0-9]*[a-z0-9])?')"
)


def a(schema: Object) -> Object:
    return {"type": "object", "properties": {"a": schema}}


def column(**changes: Any) -> Object:
    return {"name": "State", "type": "string", "jsonPath": ".status.state", **changes}


def test_a_small_definition_is_accepted() -> None:
    assert definition_refusals(definition()) == []
    assert create_refusals(definition()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"metadata": {"name": "gadgets.example.com"}},
            [('FieldValueInvalid metadata.name: Invalid value: "gadgets.example.com":'
             ' must be spec.names.plural+"."+spec.group')],
        ),
        (
            {"metadata": {"name": "widgets.example"}, "spec": {"group": "example"}},
            ['FieldValueInvalid spec.group: Invalid value: "example": should be a domain with at least one dot'],
        ),
        (
            {"spec": {"scope": "Galaxy"}},
            [('FieldValueNotSupported spec.scope: Unsupported value: "Galaxy":'
             ' supported values: "Cluster", "Namespaced"')],
        ),
        (
            {"spec": {"names": {"singular": "Widget"}}},
            [f'FieldValueInvalid spec.names.singular: Invalid value: "Widget": {DNS1035}'],
        ),
        (
            {"spec": {"names": {"kind": "Wid_get"}}},
            [('FieldValueInvalid spec.names.kind: Invalid value: "Wid_get":'
             f" may have mixed case, but should otherwise match: {DNS1035}")],
        ),
        (
            {"spec": {"names": {"listKind": "Widget"}}},
            ['FieldValueInvalid spec.names.listKind: Invalid value: "Widget": kind and listKind may not be the same'],
        ),
        (
            {"spec": {"names": {"shortNames": ["W"]}}},
            [f'FieldValueInvalid spec.names.shortNames[0]: Invalid value: "W": {DNS1035}'],
        ),
    ],
)  # fmt: skip
def test_names(change: Object, said: list[str]) -> None:
    assert definition_refusals(changed(definition(), change)) == said


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ({"schema": None}, [
            "FieldValueRequired spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ]),
        ({"name": "V1"}, [f'FieldValueInvalid spec.versions[0].name: Invalid value: "V1": {DNS1035}']),
        *(
            ({field: value}, [f"FieldValueForbidden {path}: Forbidden: {UNSUPPORTED}"])
            for field, value, path in (
                ("deprecated", True, "spec.versions[0].deprecated"),
                ("deprecationWarning", "use v2", "spec.versions[0].deprecationWarning"),
                ("selectableFields", [{"jsonPath": ".spec.a"}], "spec.versions[0].selectableFields"),
                ("subresources", {"scale": {"specReplicasPath": ".spec.a"}}, "spec.subresources.scale"),
            )
        ),
        ({"additionalPrinterColumns": [column()]}, []),
        (
            {"additionalPrinterColumns": [column(type="text", jsonPath="status.state")]},
            [('FieldValueInvalid spec.additionalPrinterColumns[0].type: Invalid value: "text":'
             " must be one of boolean,date,integer,number,string"),
             ('FieldValueInvalid spec.additionalPrinterColumns[0].JSONPath: Invalid value: "status.state":'
             " must be a simple json path starting with .")],
        ),
        (
            {"additionalPrinterColumns": [column(name="", jsonPath="", format="int8")]},
            ["FieldValueRequired spec.additionalPrinterColumns[0].name: Required value",
             ('FieldValueInvalid spec.additionalPrinterColumns[0].format: Invalid value: "int8":'
             " must be one of byte,date,date-time,double,float,int32,int64,password"),
             "FieldValueRequired spec.additionalPrinterColumns[0].JSONPath: Required value"],
        ),
    ],
)  # fmt: skip
def test_versions(version: Object, said: list[str]) -> None:
    assert definition_refusals(definition(**version)) == said


def test_there_is_one_version_which_is_stored_and_not_converted() -> None:
    crd = definition()
    (version,) = crd["spec"]["versions"]
    two = {**crd, "spec": {**crd["spec"], "versions": [version, {**version, "name": "v2", "storage": False}]}}
    assert definition_refusals(two) == [
        "FieldValueInvalid spec.versions: Invalid value: 2: this local server supports exactly one version"
    ]
    (line,) = definition_refusals(definition(storage=False))
    assert line.endswith("must have exactly one version marked as storage version")
    converted = changed(crd, {"spec": {"conversion": {"strategy": "Webhook"}}})
    assert definition_refusals(converted) == [
        (
            'FieldValueInvalid spec.conversion.strategy: Invalid value: "Webhook": this local server calls no'
            " conversion webhooks: write None"
        )
    ]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (a(STRING), []),
        (
            a({}),
            ["FieldValueRequired ~.properties[a].type: Required value: must not be empty for specified object fields"],
        ),
        (a({"x-kubernetes-preserve-unknown-fields": True}), []),
        (a({"x-kubernetes-int-or-string": True}), []),
        (
            {"type": "array"},
            ["FieldValueRequired ~.items: Required value: must be specified"],
        ),
        (
            {"type": "array", "items": {}},
            ["FieldValueRequired ~.items.type: Required value: must not be empty for specified array items"],
        ),
        (
            a({"type": "text"}),
            [('FieldValueNotSupported ~.properties[a].type: Unsupported value: "text": supported values:'
             ' "array", "boolean", "integer", "number", "object", "string"')],
        ),
        (
            {"type": "object", "properties": {"a": STRING}, "additionalProperties": STRING},
            [("FieldValueForbidden ~.additionalProperties: Forbidden:"
             " additionalProperties and properties are mutual exclusive")],
        ),
        *(
            (a({**INTEGER, keyword: value}), [
                (f"FieldValueForbidden ~.properties[a].{keyword}: Forbidden: this local server does not support the"
                " keyword: remove it")
            ])
            for keyword, value in (
                ("allOf", [{"minimum": 1}]), ("oneOf", [{"minimum": 1}]), ("not", {"minimum": 1}), ("pattern", "a"),
                ("multipleOf", 2), ("minProperties", 1), ("nullable", True), ("x-kubernetes-embedded-resource", True),
                ("x-kubernetes-map-type", "atomic"),
            )
        ),
        (
            a({**LIST, "uniqueItems": True}),
            [("FieldValueForbidden ~.properties[a].uniqueItems: Forbidden:"
             " uniqueItems cannot be set to true since the runtime complexity becomes quadratic")],
        ),
        (
            a({**STRING, "anyOf": [{"type": "string"}]}),
            [("FieldValueForbidden ~.properties[a].anyOf: Forbidden: this local server supports anyOf only for integer"
             " or string, with x-kubernetes-int-or-string")],
        ),
        (
            a({**STRING, "default": 1}),
            [('FieldValueTypeInvalid ~.properties[a].default: Invalid value: "integer":'
              '  in body must be of type string: "integer"')],
        ),
        (
            a({**a(STRING), "default": {"b": 1}}),
            [('FieldValueInvalid ~.properties[a].default: Invalid value: map[string]interface {}{"b":1}:'
             " must not have unknown fields")],
        ),
        (
            a({**LIST, "x-kubernetes-list-type": "bag"}),
            [('FieldValueNotSupported ~.properties[a].x-kubernetes-list-type: Unsupported value: "bag":'
             ' supported values: "atomic", "set", "map"')],
        ),
        (
            a({**LIST, "x-kubernetes-list-type": "map"}),
            [("FieldValueRequired ~.properties[a].x-kubernetes-list-map-keys: Required value:"
             " must not be empty if x-kubernetes-list-type is map"),
             ('FieldValueInvalid ~.properties[a].items.type: Invalid value: "string":'
             " must be object if parent array's x-kubernetes-list-type is map")],
        ),
        (
            a({"type": "array", "items": a(STRING), "x-kubernetes-list-type": "map",
               "x-kubernetes-list-map-keys": ["a"]}),
            [("FieldValueRequired ~.properties[a].items.properties[a].default: Required value: this property is in"
             " x-kubernetes-list-map-keys, so it must have a default or be a required property")],
        ),
        (
            a({**STRING, "format": "isbn"}),
            [('FieldValueInvalid ~.properties[a].format: Invalid value: "isbn":'
             " this local server does not check this format: remove it")],
        ),
    ],
)  # fmt: skip
def test_schemas(spec: Object, said: list[str]) -> None:
    assert [
        line.replace("spec.validation.openAPIV3Schema.properties[spec]", "~") for line in spec_refusals(spec)
    ] == said


def test_metadata_is_declared_by_nobody() -> None:
    crd = definition()
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    root["properties"]["metadata"] = {"type": "object", "properties": {"labels": {"type": "object"}}}
    assert definition_refusals(crd) == [
        (
            "FieldValueForbidden spec.validation.openAPIV3Schema.properties[metadata]: Forbidden: must not specify"
            " anything other than name and generateName, but metadata is implicitly specified"
        )
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": {"names": {"shortNames": ["w"]}}}, []),
        (
            {"spec": {"scope": "Cluster"}},
            ['FieldValueInvalid spec.scope: Invalid value: "Cluster": field is immutable'],
        ),
        (
            {"spec": {"names": {"kind": "Gadget"}}},
            ['FieldValueInvalid spec.names.kind: Invalid value: "Gadget": field is immutable'],
        ),
    ],
)
def test_an_established_definition_keeps_its_scope_and_kind(change: Object, said: list[str]) -> None:
    condition = {"type": "Established", "status": "True", "reason": "x", "message": "x"}
    old = changed(definition(), {"status": {"conditions": [condition], "storedVersions": ["v1"]}})
    assert update_refusals(old, changed(old, change)) == said


def test_the_definition_of_sft_jobs_is_accepted() -> None:
    path = Path(__file__).parents[3] / "crds" / "sftjobs.yaml"
    assert definition_refusals(yaml.safe_load(path.read_text(encoding="utf-8"))) == []

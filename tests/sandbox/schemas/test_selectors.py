from typing import Any

import pytest

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.selectors import field_selector, label_selector
from support.kube_schemas import Object

QUALIFIED = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric"
    " character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is"
    " '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("", {}, True),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("!a", {"a": ""}, False),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "b"}, True),
        ("a=b", {"a": "c"}, False),
        ("a=", {"a": ""}, True),
        ("a!=b", {"a": "c"}, True),
        ("a!=b", {}, True),
        ("a in (b, c)", {"a": "c"}, True),
        ("a in (b, c)", {}, False),
        ("a in (,b)", {"a": ""}, True),
        ("a notin (b,c)", {"a": "b"}, False),
        ("a notin (b,c)", {}, True),
        ("a=b,c notin (d),!e", {"a": "b"}, True),
        ("a=b,c", {"a": "b"}, False),
        ("a>3", {"a": "4"}, True),
        ("a>3", {"a": "x"}, False),
        ("a<3", {"a": "-4"}, True),
        ("a<3", {}, False),
        ("example.com/in in (in)", {"example.com/in": "in"}, True),
        (" a = b ", {"a": "b"}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], matches: bool) -> None:
    assert label_selector(selector)(labels) is matches


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("a,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a/b/c=d", f'unable to parse requirement: <nil>: Invalid value: "a/b/c": {QUALIFIED}'.replace(
            "name part must", "a qualified name must") + " with an optional DNS subdomain prefix and '/'"
            " (e.g. 'example.com/MyName')"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a=-b", f'unable to parse requirement: values[0][a]: Invalid value: "-b": {VALUE}'),
        (
            "a>b",
            ('unable to parse requirement: values[0]: Invalid value: "b":'
            " for 'Gt', 'Lt' operators, the value must be an integer"),
        ),
    ],
)  # fmt: skip
def test_bad_label_selectors(selector: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        label_selector(selector)
    assert (refused.value.code, refused.value.message) == (400, message)


POD: Object = {
    "metadata": {"name": "a", "namespace": "b"},
    "spec": {"nodeName": "n", "restartPolicy": "Never"},
    "status": {"phase": "Running"},
}
EVENT: Object = {
    "metadata": {"name": "a", "namespace": "b"},
    "involvedObject": {"kind": "Pod", "name": "p"},
    "reason": "Killing",
    "reportingComponent": "node",
    "type": "Normal",
}


@pytest.mark.parametrize(
    ("selector", "kind", "obj", "matches"),
    [
        ("", "Pod", POD, True),
        ("metadata.name=a", "Pod", POD, True),
        ("metadata.name=a,metadata.namespace!=b", "Pod", POD, False),
        ("status.phase!=Succeeded,status.phase!=Failed", "Pod", POD, True),
        ("spec.nodeName=n", "Pod", POD, True),
        ("spec.nodeName=", "Pod", {"metadata": {}}, True),
        ("spec.hostNetwork=false", "Pod", POD, True),
        ("involvedObject.name==p,reason=Killing", "Event", EVENT, True),
        ("source=node", "Event", EVENT, True),
        ("source=kubelet", "Event", {**EVENT, "source": {"component": "kubelet"}}, True),
        ("type=Opaque", "Secret", {"metadata": {}, "type": "Opaque"}, True),
        ("status.phase=Active", "Namespace", {"metadata": {}, "status": {"phase": "Active"}}, True),
        (r"metadata.name=a\,b", "Pod", {"metadata": {"name": "a,b"}}, True),
    ],
)
def test_field_selectors(selector: str, kind: str, obj: Object, matches: bool) -> None:
    assert field_selector(selector, kind)(obj) is matches


def test_fields_of_custom_resources() -> None:
    obj = {"metadata": {"name": "a"}, "spec": {"mode": "full"}}
    assert field_selector("metadata.name=a", "Widget", custom=True)(obj)
    assert field_selector("spec.mode=full", "Widget", custom=True, selectable=(".spec.mode",))(obj)


@pytest.mark.parametrize(
    ("selector", "kind", "options", "message"),
    [
        ("spec.image=x", "Pod", {}, "field label not supported: spec.image"),
        ("metadata.namespace=x", "Namespace", {}, "field label not supported: metadata.namespace"),
        ("name=x", "Namespace", {}, "field label not supported: name"),
        ("spec.mode=x", "Widget", {"custom": True}, "field label not supported: spec.mode"),
        (
            "data=x",
            "ConfigMap",
            {},
            '"data" is not a known field selector: only "metadata.name", "metadata.namespace"',
        ),
        ("metadata.name", "Pod", {}, "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        (r"metadata.name=a\b", "Pod", {}, r"invalid field selector: invalid escape sequence: \b"),
    ],
)
def test_bad_field_selectors(selector: str, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as refused:
        field_selector(selector, kind, **options)
    assert (refused.value.code, refused.value.message) == (400, message)

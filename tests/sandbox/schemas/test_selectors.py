import pytest

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.selectors import field_selector, label_selector
from support.checks.kube_schemas import Object


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
        ("example.com/in in (in)", {"example.com/in": "in"}, True),
        (" a = b ", {"a": "b"}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], matches: bool) -> None:
    assert label_selector(selector)(labels) is matches


@pytest.mark.parametrize(
    ("selector", "part"),
    [
        *((text, text.strip()) for text in ("a b", "a=b=c", "a in b", "a in (b", "!", "a=b c", "a>3", "!a=b", "a=(b)")),
        ("a,", ""),
        (",a", ""),
        ("a=b,c in (d) e", "c in (d) e"),
        ("a/b/c=d", "a/b/c=d"),
        ("a=-b", "a=-b"),
    ],
)
def test_bad_label_selectors(selector: str, part: str) -> None:
    with pytest.raises(ApiError) as refused:
        label_selector(selector)
    assert refused.value.code == 400
    assert refused.value.message.startswith(f"unable to parse requirement: {part!r}")


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
        ("involvedObject.name==p,reason=Killing", "Event", EVENT, True),
        ("type=Opaque", "Secret", {"metadata": {}, "type": "Opaque"}, True),
    ],
)
def test_field_selectors(selector: str, kind: str, obj: Object, matches: bool) -> None:
    assert field_selector(selector, kind)(obj) is matches


@pytest.mark.parametrize(
    ("selector", "kind", "message"),
    [
        ("spec.image=x", "Pod", "field label not supported: spec.image"),
        ("name=x", "Namespace", "field label not supported: name"),
        ("spec.mode=x", "Widget", "field label not supported: spec.mode"),
        ("metadata.name", "Pod", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        (
            r"metadata.name=a\,b",
            "Pod",
            r"invalid field selector: this local server does not support escaped characters: metadata.name=a\,b",
        ),
    ],
)
def test_bad_field_selectors(selector: str, kind: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        field_selector(selector, kind)
    assert (refused.value.code, refused.value.message) == (400, message)

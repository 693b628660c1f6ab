"""Pure parts: paths, durations, JSON paths, bodies, storage."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sftjob_sandbox.apimachinery.jsonpath import find
from sftjob_sandbox.apimachinery.objects import generated_name
from sftjob_sandbox.http.requests import parse_request
from sftjob_sandbox.http.table import age, human_duration
from sftjob_sandbox.http.write_options import manager_of
from sftjob_sandbox.storage.bodies import parse_yaml
from sftjob_sandbox.storage.collections import CompactedError, Storage

REQUESTS = [
    ("GET", "/api/v1/namespaces/ns/pods/p/log", {}, "get ns pods p log"),
    ("GET", "/api/v1/namespaces/ns/pods", {}, "list ns pods  "),
    ("GET", "/api/v1/namespaces/ns/pods", {"watch": "1"}, "watch ns pods  "),
    ("GET", "/api/v1/namespaces/ns/pods", {"watch": "false"}, "list ns pods  "),
    ("GET", "/api/v1/pods", {}, "list  pods  "),
    ("GET", "/api/v1/namespaces", {}, "list  namespaces  "),
    ("PUT", "/api/v1/namespaces/ns/status", {}, "update ns namespaces ns status"),
    ("POST", "/apis/g.dev/v1/namespaces/ns/things", {}, "create ns things  "),
    ("DELETE", "/apis/g.dev/v1/namespaces/ns/things", {}, "deletecollection ns things  "),
    ("PATCH", "/apis/g.dev/v1/namespaces/ns/things/t/status", {}, "patch ns things t status"),
]


@pytest.mark.parametrize(("method", "path", "query", "told"), REQUESTS)
def test_a_path_is_taken_apart(method: str, path: str, query: dict[str, str], told: str) -> None:
    info = parse_request(method, path, query)

    assert info.is_resource
    assert f"{info.verb} {info.namespace} {info.resource} {info.name} {info.subresource}" == told


@pytest.mark.parametrize("path", ["/", "/api", "/api/v1", "/apis", "/apis/g.dev/v1", "/openapi/v3/apis/g.dev/v1"])
def test_documents_are_no_resources(path: str) -> None:
    assert not parse_request("GET", path, {}).is_resource


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600 + 60, "8h"),
        (48 * 3600, "2d"),
        (51 * 3600, "2d3h"),
        (8 * 86400 + 3600, "8d"),
        (2 * 365 * 86400, "2y"),
        (3 * 365 * 86400 + 5 * 86400, "3y5d"),
        (9 * 365 * 86400 + 5 * 86400, "9y"),
    ],
)
def test_durations_read_as_kubectl_shows_them(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_an_unknown_time_has_an_unknown_age() -> None:
    assert age(None, datetime(2026, 1, 1, tzinfo=UTC)) == "<unknown>"


OBJECT: dict[str, Any] = {
    "spec": {"n": 1, "list": ["a", "b"], "a.b": "dotted", "quo'ted": "q"},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Done", "status": "False"}]},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.n", [1]),
        (".spec.list[1]", ["b"]),
        (".spec.list[-1]", ["b"]),
        (".spec.list[*]", ["a", "b"]),
        (".spec.list[7]", []),
        (r".spec.a\.b", ["dotted"]),
        (".spec['a.b']", ["dotted"]),
        ('.status.conditions[?(@.type=="Done")].status', ["False"]),
        (".status.conditions[?(@.type=='None')].status", []),
        (".spec.missing.deep", []),
        (".spec.n.deep", []),
        ("$.spec.n", [1]),
    ],
)
def test_json_paths_of_columns(path: str, found: list[Any]) -> None:
    assert find(OBJECT, path) == found


@pytest.mark.parametrize("path", ["spec", ".spec[", ".a[?(@.b>1)]", ".a..b"])
def test_a_path_that_is_not_simple_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="unrecognized JSON path"):
        find(OBJECT, path)


def test_yaml_scalars_are_those_of_go() -> None:
    text = b"a: 2e-4\nb: 2026-01-01\nc: 2026-01-01T00:00:00Z\nd: 1.5\ne: abc\nf: '2e-4'\n"

    assert parse_yaml(text) == {
        "a": 2e-4,
        "b": "2026-01-01",
        "c": "2026-01-01T00:00:00Z",
        "d": 1.5,
        "e": "abc",
        "f": "2e-4",
    }


def test_a_generated_name_fits_into_a_label() -> None:
    assert len(generated_name("x" * 80)) == 63


@pytest.mark.parametrize(
    ("agent", "manager"),
    [("kubectl/v1.32 (linux)", "kubectl"), ("", "unknown"), ("a\x00b/1", "ab"), ("x" * 200, "x" * 128)],
)
def test_a_client_that_names_no_manager_is_told_by_its_user_agent(agent: str, manager: str) -> None:
    assert manager_of(agent) == manager


def _thing(name: str, value: int = 0) -> dict[str, Any]:
    return {"kind": "Thing", "apiVersion": "v1", "metadata": {"name": name}, "value": value}


def test_what_the_log_has_forgotten_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftjob_sandbox.storage.collections.HISTORY_LIMIT", 3)
    storage = Storage(100)
    for number in range(10):
        storage.put("things", ("", "a"), _thing("a", number))

    with pytest.raises(CompactedError):
        storage.collection("things").changes_after(101)
    assert [change.revision for change in storage.collection("things").changes_after(108)] == [109, 110]


def test_revisions_count_over_all_resources() -> None:
    storage = Storage(100)

    revisions = [storage.put(resource, ("", "a"), _thing("a")).revision for resource in ("things", "others", "things")]

    assert revisions == [101, 102, 103]

"""Tokens: who gets one, what it may do, and when it no longer holds."""

import base64
import json
from typing import Any

import pytest

from support.clients.http_api import PODS, WIDGETS, HttpApi, pod

TOKEN = "/api/v1/namespaces/default/serviceaccounts/default/token"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCOUNT = "system:serviceaccount:default:default"


async def _token(api: HttpApi, **spec: Any) -> str:
    token: str = (await api.ok("POST", TOKEN, {"spec": spec}))["status"]["token"]
    return token


async def _review(api: HttpApi, token: str, *audiences: str) -> Any:
    spec = {"token": token, "audiences": list(audiences)}
    return (await api.ok("POST", TOKEN_REVIEWS, {"spec": spec}))["status"]


async def _bound_token(api: HttpApi, *audiences: str) -> tuple[str, Any]:
    made = await api.ok("POST", PODS, pod())
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "one", "uid": made["metadata"]["uid"]}
    return await _token(api, audiences=list(audiences), boundObjectRef=reference), made


async def test_a_token_says_whom_it_is_for_and_how_long_it_holds(api: HttpApi) -> None:
    answer = await api("POST", TOKEN, {"spec": {"audiences": ["reports"], "expirationSeconds": 700}})

    claims = json.loads(base64.urlsafe_b64decode(answer.body["status"]["token"].split(".")[1] + "=="))
    assert (answer.status, answer.body["kind"]) == (201, "TokenRequest")
    assert (claims["aud"], claims["sub"], claims["exp"] - claims["iat"]) == (["reports"], ACCOUNT, 700)


async def test_a_review_tells_the_user_and_the_pod(api: HttpApi) -> None:
    token, made = await _bound_token(api, "reports")

    status = await _review(api, token, "reports", "other")

    assert (status["authenticated"], status["audiences"]) == (True, ["reports"])
    assert status["user"]["username"] == ACCOUNT
    assert status["user"]["groups"] == [
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    ]
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["one"]
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [made["metadata"]["uid"]]


async def test_a_token_for_another_audience_does_not_hold(api: HttpApi) -> None:
    status = await _review(api, await _token(api, audiences=["reports"]), "other")

    text = 'token audiences ["reports"] is invalid for the target audiences ["other"]'
    assert status == {"user": {}, "error": f"[invalid bearer token, {text}]"}


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "", "é"])
async def test_nonsense_is_no_token(api: HttpApi, token: str) -> None:
    if not token:
        assert (await api("POST", TOKEN_REVIEWS, {"spec": {}})).status == 400
        return
    assert await _review(api, token) == {"user": {}, "error": "invalid bearer token"}


async def test_a_changed_token_does_not_hold(api: HttpApi) -> None:
    head, claims, signature = (await _token(api)).split(".")
    forged = json.loads(base64.urlsafe_b64decode(claims + "=="))
    forged["sub"] = "system:serviceaccount:kube-system:default"
    text = base64.urlsafe_b64encode(json.dumps(forged).encode()).rstrip(b"=").decode()

    assert "authenticated" not in await _review(api, f"{head}.{text}.{signature}")


async def test_a_bound_token_ends_with_its_pod(api: HttpApi) -> None:
    token, _ = await _bound_token(api, "reports")
    await api.ok("DELETE", f"{PODS}/one")
    await api.ok("POST", PODS, pod())

    status = await _review(api, token, "reports")

    assert status["error"].startswith("[invalid bearer token, pod default/one")


async def test_a_token_ends_with_its_service_account(api: HttpApi) -> None:
    token = await _token(api, audiences=["reports"])

    await api.ok("DELETE", "/api/v1/namespaces/default/serviceaccounts/default")

    assert "authenticated" not in await _review(api, token, "reports")


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        (
            {"expirationSeconds": 5},
            422,
            (
                'TokenRequest.authentication.k8s.io "default" is invalid: spec.expirationSeconds: Invalid value: 5: '
                "may not specify a duration less than 10 minutes"
            ),
        ),
        ({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}}, 404, 'pods "none" not found'),
        (
            {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "none"}},
            400,
            'cannot bind token for serviceaccount "default" to type "/v1, Kind=Secret"',
        ),
        (
            {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "one", "uid": "other"}},
            409,
            (
                'Operation cannot be fulfilled on Pod "one": the UID in the bound object reference (other) does not '
                "match the UID in record. The object might have been deleted and then recreated"
            ),
        ),
    ],
)
async def test_refused_is_a_token_request_with(api: HttpApi, spec: Any, code: int, message: str) -> None:
    await api.ok("POST", PODS, pod())

    refused = await api("POST", TOKEN, {"spec": spec})

    assert (refused.status, refused.body["message"]) == (code, message)


FORBIDDEN = [
    (
        "GET",
        PODS,
        'pods is forbidden: User "{}" cannot list resource "pods" in API group "" in the namespace "default"',
    ),
    (
        "GET",
        f"{PODS}/one",
        'pods "one" is forbidden: User "{}" cannot get resource "pods" in API group "" in the namespace "default"',
    ),
    (
        "PATCH",
        f"{WIDGETS}/one/status",
        (
            'widgets.example.dev "one" is forbidden: User "{}" cannot patch resource "widgets/status" '
            'in API group "example.dev" in the namespace "default"'
        ),
    ),
    (
        "GET",
        "/api/v1/nodes",
        'nodes is forbidden: User "{}" cannot list resource "nodes" in API group "" at the cluster scope',
    ),
    (
        "GET",
        "/api/v1/nodes?watch=1",
        'nodes is forbidden: User "{}" cannot watch resource "nodes" in API group "" at the cluster scope',
    ),
    (
        "DELETE",
        "/api/v1/namespaces/default/secrets",
        (
            'secrets is forbidden: User "{}" cannot deletecollection resource "secrets" in API group "" '
            'in the namespace "default"'
        ),
    ),
    ("POST", TOKEN_REVIEWS, None),
    ("GET", "/metrics", 'forbidden: User "{}" cannot get path "/metrics"'),
]


@pytest.mark.parametrize(("method", "path", "message"), FORBIDDEN)
async def test_a_pods_token_gives_no_right(api: HttpApi, method: str, path: str, message: str | None) -> None:
    token, _ = await _bound_token(api)

    refused = await api(method, path, token=token)

    assert refused.refusal[:2] == (403, "Forbidden")
    assert message is None or refused.body["message"] == message.format(ACCOUNT)


@pytest.mark.parametrize("path", ["/version", "/healthz", "/readyz", "/api", "/apis", "/openapi/v3"])
async def test_but_every_user_may_look_around(api: HttpApi, path: str) -> None:
    assert (await api("GET", path, token=await _token(api))).status == 200


@pytest.mark.parametrize("token", ["", "wrong"])
@pytest.mark.parametrize("path", [PODS, "/version", "/healthz", "/nowhere"])
async def test_without_a_token_nothing_is_answered(api: HttpApi, path: str, token: str) -> None:
    assert (await api("GET", path, token=token)).refusal == (401, "Unauthorized", "Unauthorized")


async def test_a_token_for_others_does_not_open_this_server(api: HttpApi) -> None:
    token = await _token(api, audiences=["reports"])

    assert (await api("GET", "/version", token=token)).status == 401


REVIEWS = "/apis/authorization.k8s.io/v1"
LIST_PODS = {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}


@pytest.mark.parametrize(
    ("spec", "of_administrator", "of_pod"),
    [
        (LIST_PODS, True, False),
        ({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}, True, False),
        ({"nonResourceAttributes": {"verb": "get", "path": "/version"}}, True, True),
        (
            {"resourceAttributes": {
                "verb": "create", "group": "authorization.k8s.io", "resource": "selfsubjectaccessreviews",
            }},
            True,
            True,
        ),
    ],
)  # fmt: skip
async def test_every_user_may_ask_for_the_own_rights(
    api: HttpApi, spec: dict[str, Any], of_administrator: bool, of_pod: bool
) -> None:
    token, _ = await _bound_token(api)

    answers = [
        (await api("POST", f"{REVIEWS}/selfsubjectaccessreviews", {"spec": spec}, token=asker)).body
        for asker in (None, token)
    ]

    assert [answer["status"] for answer in answers] == [{"allowed": of_administrator}, {"allowed": of_pod}]
    assert (answers[0]["kind"], answers[0]["spec"]) == ("SelfSubjectAccessReview", spec)


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [({"user": ACCOUNT}, False), ({"groups": ["system:masters"]}, True), ({"user": "kubernetes-admin"}, False)],
)
async def test_the_administrator_may_ask_for_the_rights_of_others(
    api: HttpApi, subject: dict[str, Any], allowed: bool
) -> None:
    answer = await api.ok("POST", f"{REVIEWS}/subjectaccessreviews", {"spec": {**LIST_PODS, **subject}})

    assert answer["status"] == {"allowed": allowed}
    refused = await api("POST", f"{REVIEWS}/subjectaccessreviews", {"spec": LIST_PODS}, token=await _token(api))
    assert refused.refusal[:2] == (403, "Forbidden")


@pytest.mark.parametrize(
    ("kind", "spec", "field", "sentence"),
    [
        (
            "SelfSubjectAccessReview",
            {},
            'spec.resourceAttributes: Invalid value: "null"',
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            "SubjectAccessReview",
            LIST_PODS,
            'spec.user: Invalid value: ""',
            "at least one of user or group must be specified",
        ),
    ],
)
async def test_an_access_review_names_one_request_and_a_subject(
    api: HttpApi, kind: str, spec: dict[str, Any], field: str, sentence: str
) -> None:
    path, text = f"{REVIEWS}/{kind.lower()}s", f'{kind}.authorization.k8s.io "" is invalid: {field}: {sentence}'

    assert (await api("POST", path, {"spec": spec})).refusal == (422, "Invalid", text)
    both = {**LIST_PODS, "user": "a", "nonResourceAttributes": {"verb": "get", "path": "/"}}
    assert (await api("POST", path, {"spec": both})).status == 422


async def test_reviews_can_only_be_created(api: HttpApi) -> None:
    listed = await api.ok("GET", REVIEWS)

    assert [(resource["name"], resource["verbs"]) for resource in listed["resources"]] == [
        ("selfsubjectaccessreviews", ["create"]),
        ("subjectaccessreviews", ["create"]),
    ]
    assert (await api("GET", f"{REVIEWS}/subjectaccessreviews")).status == 405


async def test_nobody_may_impersonate_another_user(api: HttpApi) -> None:
    refused = await api("GET", PODS, headers={"Impersonate-User": ACCOUNT})

    text = "this local server does not support impersonation: use the user's token"
    assert refused.refusal == (400, "BadRequest", text)

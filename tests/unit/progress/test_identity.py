"""Whose Pod a token stands for, and how seldom the API server is asked."""

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from sftjob_contract.names import TOKEN_AUDIENCE
from sftjob_operator.progress.identity import CACHE_SIZE, PodIdentity, TokenReviewer, pod_identity, token_expiry
from support.fake_cluster import START, FakeClock

POD = PodIdentity(namespace="team", name="demo-train-1", uid="u1")


def a_review(**changes: Any) -> dict[str, Any]:
    extra = {
        "authentication.kubernetes.io/pod-name": ["demo-train-1"],
        "authentication.kubernetes.io/pod-uid": ["u1"],
    }
    user = {"username": "system:serviceaccount:team:default", "extra": extra}
    return {"authenticated": True, "audiences": [TOKEN_AUDIENCE], "user": user, **changes}


def a_jwt(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"header.{payload}.signature"


class Reviews:
    """Answers and counts TokenReviews."""

    def __init__(self, answer: Mapping[str, Any] | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, token: str, audience: str) -> Mapping[str, Any]:
        self.asked.append((token, audience))
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_good_review_names_the_pod() -> None:
    assert pod_identity(a_review()) == POD


@pytest.mark.parametrize(
    "review",
    [
        {},
        a_review(authenticated=False),
        a_review(authenticated="true"),
        a_review(audiences=["https://kubernetes.default.svc"]),
        a_review(audiences=None),
        a_review(user={"username": "kubernetes-admin"}),
        a_review(user={"username": "system:serviceaccount:team:default", "extra": {}}),
        a_review(
            user={
                "username": "system:serviceaccount:team:default",
                "extra": {"authentication.kubernetes.io/pod-name": ["demo-train-1"]},
            }
        ),
    ],
)
def test_anything_else_names_none(review: dict[str, Any]) -> None:
    assert pod_identity(review) is None


async def test_the_api_server_is_asked_for_our_audience_and_then_remembered() -> None:
    clock, reviews = FakeClock(), Reviews(a_review())
    reviewer = TokenReviewer(reviews, clock.now)
    assert [await reviewer.pod_of("t") for _ in range(3)] == [POD] * 3
    assert reviews.asked == [("t", TOKEN_AUDIENCE)]
    clock.advance(299)
    await reviewer.pod_of("t")
    assert len(reviews.asked) == 1
    clock.advance(1)
    await reviewer.pod_of("t")
    assert len(reviews.asked) == 2


async def test_an_answer_is_not_believed_beyond_the_tokens_expiry() -> None:
    clock, reviews = FakeClock(), Reviews(a_review())
    reviewer = TokenReviewer(reviews, clock.now)
    token = a_jwt(exp=START.timestamp() + 100)
    await reviewer.pod_of(token)
    clock.advance(69)
    await reviewer.pod_of(token)
    assert len(reviews.asked) == 1
    clock.advance(1)
    await reviewer.pod_of(token)
    assert len(reviews.asked) == 2


async def test_a_bad_token_is_asked_about_again_soon() -> None:
    clock, reviews = FakeClock(), Reviews({"authenticated": False})
    reviewer = TokenReviewer(reviews, clock.now)
    assert await reviewer.pod_of("bad") is None
    assert await reviewer.pod_of("bad") is None
    assert len(reviews.asked) == 1
    clock.advance(10)
    reviews.answer = a_review()
    assert await reviewer.pod_of("bad") == POD


async def test_a_failure_to_ask_is_not_remembered() -> None:
    reviews = Reviews(RuntimeError("down"))
    reviewer = TokenReviewer(reviews, FakeClock().now)
    with pytest.raises(RuntimeError, match="down"):
        await reviewer.pod_of("t")
    reviews.answer = a_review()
    assert await reviewer.pod_of("t") == POD


async def test_many_reports_at_once_ask_at_most_eight_times() -> None:
    reviews = Reviews(a_review())
    reviewer = TokenReviewer(reviews, FakeClock().now)
    pods = await asyncio.gather(*(reviewer.pod_of("t") for _ in range(50)))
    assert pods == [POD] * 50
    assert len(reviews.asked) <= 8


async def test_memory_is_bounded_and_keeps_no_token() -> None:
    reviewer = TokenReviewer(Reviews({"authenticated": False}), FakeClock().now)
    for number in range(CACHE_SIZE + 10):
        await reviewer.pod_of(f"secret-token-{number}")
    assert len(reviewer._answers) == CACHE_SIZE
    assert "secret-token" not in repr(reviewer._answers)


@pytest.mark.parametrize(
    ("token", "expiry"),
    [
        (a_jwt(exp=123), 123.0),
        (a_jwt(exp="soon"), None),
        (a_jwt(), None),
        (a_jwt(exp=None), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a.!!!.c", None),
        ("a.W10.c", None),
    ],
)
def test_the_expiry_of_a_jwt_is_read_and_of_anything_else_unknown(token: str, expiry: float | None) -> None:
    assert token_expiry(token) == expiry

"""Whose Pod a token stands for, and how seldom the API server is asked."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from sftjob_contract.names import TOKEN_AUDIENCE
from sftjob_operator.progress.identity import (
    CACHE_SIZE,
    REFUSED_CACHE_SIZE,
    Claims,
    PodIdentity,
    TokenReviewer,
    pod_identity,
    token_claims,
)
from support.fakes.fake_cluster import START, FakeClock
from support.servers.tokens import FAR, a_jwt, token_of

POD = PodIdentity(namespace="team", name="demo-train-1", uid="u1")


def a_review(**changes: Any) -> dict[str, Any]:
    extra = {
        "authentication.kubernetes.io/pod-name": ["demo-train-1"],
        "authentication.kubernetes.io/pod-uid": ["u1"],
    }
    user = {"username": "system:serviceaccount:team:default", "extra": extra}
    return {"authenticated": True, "audiences": [TOKEN_AUDIENCE], "user": user, **changes}


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
    reviews = Reviews({"authenticated": False})
    reviewer = TokenReviewer(reviews, FakeClock().now)
    for number in range(REFUSED_CACHE_SIZE + 10):
        await reviewer.pod_of(f"secret-token-{number}")
    assert len(reviewer._invalid) == REFUSED_CACHE_SIZE
    assert "secret-token" not in repr(reviewer._invalid)
    reviews.answer = a_review()
    for number in range(CACHE_SIZE + 10):
        await reviewer.pod_of(f"good-token-{number}")
    assert len(reviewer._valid) == CACHE_SIZE


async def test_bad_tokens_take_no_place_of_good_ones() -> None:
    reviews = Reviews(a_review())
    reviewer = TokenReviewer(reviews, FakeClock().now)
    await reviewer.pod_of("good")
    reviews.answer = {"authenticated": False}
    for number in range(CACHE_SIZE + 10):
        await reviewer.pod_of(f"bad-{number}")
    assert reviewer.is_known("good")
    assert not reviewer.is_known("bad-0")


PAYLOAD = a_jwt(aud=TOKEN_AUDIENCE, exp=FAR).split(".")[1]


@pytest.mark.parametrize(
    ("token", "could_be"),
    [
        (token_of(POD), True),
        (token_of(None), True),
        (token_of(POD, aud=TOKEN_AUDIENCE), True),
        (token_of(POD, exp=START.timestamp() - 3000), True),
        (token_of(POD, exp=START.timestamp() - 4000), False),
        (token_of(POD, aud=["https://kubernetes.default.svc"]), False),
        (token_of(POD, aud=None), False),
        (token_of(POD, exp="soon"), False),
        (token_of(POD, exp=None), False),
        (token_of(POD, exp=10**400), False),
        (token_of(POD, exp=[]), False),
        ("opaque", False),
        ("a.b.c", False),
        ("a.!!!.c", False),
        ("a.W10.c", False),
        (f"a.{PAYLOAD}", False),
        (f"a.{PAYLOAD}.c.d", False),
        (f"a.{PAYLOAD}.c\n", False),
        (f"a.{PAYLOAD}.{'c' * 9000}", False),
        ("\ud800.b.c", False),
    ],
)
def test_only_a_token_that_could_be_good_is_worth_a_question(token: str, could_be: bool) -> None:
    reviewer = TokenReviewer(Reviews({}), FakeClock().now)
    assert (reviewer.plausible_claims(token) is not None) is could_be


@pytest.mark.parametrize(
    ("bound", "pod"),
    [
        ({"namespace": "team", "pod": {"name": "demo-train-1", "uid": "u1"}}, POD),
        ({"namespace": "team", "pod": {"name": 1, "uid": "u1"}}, None),
        ({"namespace": "team", "pod": "demo"}, None),
        ({"namespace": "team"}, None),
        ("team", None),
        (None, None),
    ],
)
def test_the_pod_that_a_token_claims_is_read(bound: Any, pod: PodIdentity | None) -> None:
    token = token_of(POD, **{"kubernetes.io": bound})
    assert token_claims(token) == Claims(expires=FAR, for_this_endpoint=True, pod=pod)

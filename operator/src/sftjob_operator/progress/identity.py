"""Whose Pod a bearer token belongs to: asked of the API server by TokenReview, remembered for a while."""

import asyncio
import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sftjob_contract.names import TOKEN_AUDIENCE

CACHE_SIZE: Final = 4096
"""Most tokens remembered; the one that was not used for the longest time goes first."""
CACHE_SECONDS: Final = 300
"""Longest time that an answer is believed; shorter for a token that expires before."""
REFUSED_CACHE_SECONDS: Final = 10
"""How long a bad token is known to be bad without asking again."""
EXPIRY_MARGIN_SECONDS: Final = 30
_REVIEWS_AT_ONCE: Final = 8
"""So that a flood of made-up tokens can not flood the API server."""
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"

Review = Callable[[str, str], Awaitable[Mapping[str, Any]]]
"""(token, audience) -> `status` of a TokenReview."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PodIdentity:
    """The Pod that a token is bound to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    pod: PodIdentity | None
    until: float


class TokenReviewer:
    """Answers which Pod a token stands for. Only digests of tokens are kept."""

    def __init__(self, review: Review, now: Callable[[], datetime]) -> None:
        self._review = review
        self._now = now
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._slots = asyncio.Semaphore(_REVIEWS_AT_ONCE)

    async def pod_of(self, token: str) -> PodIdentity | None:
        """The Pod that `token` is bound to, or None for a token that is not good for this endpoint.

        Whatever `review` raises when it can not tell comes through.
        """
        digest = hashlib.sha256(token.encode()).digest()
        if (known := self._known(digest)) is not None:
            return known.pod
        async with self._slots:
            if (known := self._known(digest)) is not None:
                return known.pod
            pod = pod_identity(await self._review(token, TOKEN_AUDIENCE))
        self._answers[digest] = _Answer(pod=pod, until=self._believed_until(token, pod))
        while len(self._answers) > CACHE_SIZE:
            self._answers.popitem(last=False)
        return pod

    def _known(self, digest: bytes) -> _Answer | None:
        answer = self._answers.get(digest)
        if answer is None or answer.until <= self._now().timestamp():
            return None
        self._answers.move_to_end(digest)
        return answer

    def _believed_until(self, token: str, pod: PodIdentity | None) -> float:
        now = self._now().timestamp()
        if pod is None:
            return now + REFUSED_CACHE_SECONDS
        expires = token_expiry(token)
        longest = now + CACHE_SECONDS
        return longest if expires is None else min(longest, expires - EXPIRY_MARGIN_SECONDS)


def pod_identity(review: Mapping[str, Any]) -> PodIdentity | None:
    """The Pod in the `status` of a TokenReview; None unless the token is authentic, ours by audience, and a Pod's."""
    user = review.get("user") or {}
    extra = user.get("extra") or {}
    names, uids = list(extra.get(_POD_NAME) or ()), list(extra.get(_POD_UID) or ())
    account = str(user.get("username") or "")
    authentic = review.get("authenticated") is True and TOKEN_AUDIENCE in (review.get("audiences") or ())
    if not authentic or not account.startswith(_SERVICE_ACCOUNT) or len(names) != 1 or len(uids) != 1:
        return None
    namespace, _, _ = account.removeprefix(_SERVICE_ACCOUNT).partition(":")
    return PodIdentity(namespace=namespace, name=names[0], uid=uids[0])


def token_expiry(token: str) -> float | None:
    """When a JWT says that it expires (Unix time). The claim is not verified here: ask only of an authentic token."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None

"""The Pod that a bearer token belongs to: from a TokenReview of the API server, cached for a while.

The token's own claims are checked first, so that the API server reviews only tokens that may be valid.
"""

import asyncio
import base64
import hashlib
import json
import math
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sftjob_contract.names import TOKEN_AUDIENCE

CACHE_SIZE: Final = 4096
"""Maximum cached tokens; the least recently used one is dropped first."""
CACHE_SECONDS: Final = 300
"""Maximum time that a result is cached; shorter for a token that expires earlier."""
REFUSED_CACHE_SIZE: Final = 1024
"""Maximum cached invalid tokens. They have a separate cache, so that they never displace a valid one."""
REFUSED_CACHE_SECONDS: Final = 10
"""How long an invalid token is rejected without a new review."""
EXPIRY_MARGIN_SECONDS: Final = 30
EXPIRED_FOR_SECONDS: Final = 3600
"""How long a token must have expired to be rejected without a review: the API server's clock may differ from this
one."""
LONGEST_TOKEN: Final = 8 * 1024
_REVIEWS_AT_ONCE: Final = 8
"""Keeps a flood of made-up tokens from reaching the API server."""
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"
_KUBERNETES_CLAIMS: Final = "kubernetes.io"
_PART: Final = re.compile("[A-Za-z0-9_-]+")

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """Unverified claims of a token: its expiry (Unix time), whether it is for this endpoint, and its Pod."""

    expires: float
    for_this_endpoint: bool
    pod: PodIdentity | None


class TokenReviewer:
    """Cache of tokens and their Pods. It stores only digests of tokens."""

    def __init__(self, review: Review, now: Callable[[], datetime]) -> None:
        self._review = review
        self._now = now
        self._valid: OrderedDict[bytes, _Answer] = OrderedDict()
        self._invalid: OrderedDict[bytes, _Answer] = OrderedDict()
        self._slots = asyncio.Semaphore(_REVIEWS_AT_ONCE)

    def plausible_claims(self, token: str) -> Claims | None:
        """Return the claims of `token`, if its form, audience and expiry are those of a token for this endpoint."""
        claims = token_claims(token)
        if (
            claims is None
            or not claims.for_this_endpoint
            or claims.expires + EXPIRED_FOR_SECONDS < self._now().timestamp()
        ):
            return None
        return claims

    def is_known(self, token: str) -> bool:
        """Whether `pod_of` answers from the cache."""
        return self._known(_digest(token)) is not None

    async def pod_of(self, token: str) -> PodIdentity | None:
        """Return the Pod that `token` is bound to, or None for a token that is not valid for this endpoint.

        Errors that `review` raises when it has no result are not caught.
        """
        digest = _digest(token)
        if (known := self._known(digest)) is not None:
            return known.pod
        async with self._slots:
            if (known := self._known(digest)) is not None:
                return known.pod
            pod = pod_identity(await self._review(token, TOKEN_AUDIENCE))
        answers, most = (self._invalid, REFUSED_CACHE_SIZE) if pod is None else (self._valid, CACHE_SIZE)
        answers[digest] = _Answer(pod=pod, until=self._cached_until(token, pod))
        while len(answers) > most:
            answers.popitem(last=False)
        return pod

    def _known(self, digest: bytes) -> _Answer | None:
        for answers in (self._valid, self._invalid):
            if (answer := answers.get(digest)) is not None and answer.until > self._now().timestamp():
                answers.move_to_end(digest)
                return answer
        return None

    def _cached_until(self, token: str, pod: PodIdentity | None) -> float:
        now = self._now().timestamp()
        if pod is None:
            return now + REFUSED_CACHE_SECONDS
        claims = token_claims(token)
        longest = now + CACHE_SECONDS
        return longest if claims is None else min(longest, claims.expires - EXPIRY_MARGIN_SECONDS)


def pod_identity(review: Mapping[str, Any]) -> PodIdentity | None:
    """Return the Pod in a TokenReview's `status`; None unless it is an authentic token of a Pod for this audience."""
    user = review.get("user") or {}
    extra = user.get("extra") or {}
    names, uids = list(extra.get(_POD_NAME) or ()), list(extra.get(_POD_UID) or ())
    account = str(user.get("username") or "")
    authentic = review.get("authenticated") is True and TOKEN_AUDIENCE in (review.get("audiences") or ())
    if not authentic or not account.startswith(_SERVICE_ACCOUNT) or len(names) != 1 or len(uids) != 1:
        return None
    namespace, _, _ = account.removeprefix(_SERVICE_ACCOUNT).partition(":")
    return PodIdentity(namespace=namespace, name=names[0], uid=uids[0])


def token_claims(token: str) -> Claims | None:
    """Return the unverified claims of a JSON web token; None if it is not one with an expiry.

    https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens
    """
    parts = token.split(".") if len(token) <= LONGEST_TOKEN else []
    if len(parts) != 3 or not all(map(_PART.fullmatch, parts)):
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expires, audience = float(claims["exp"]), claims.get("aud")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        return None
    if not math.isfinite(expires):
        return None
    audiences = audience if isinstance(audience, list) else [audience]
    return Claims(
        expires=expires, for_this_endpoint=TOKEN_AUDIENCE in audiences, pod=_claimed_pod(claims.get(_KUBERNETES_CLAIMS))
    )


def _claimed_pod(claims: Any) -> PodIdentity | None:
    pod = claims.get("pod") if isinstance(claims, dict) else None
    if not isinstance(pod, dict):
        return None
    values = (claims.get("namespace"), pod.get("name"), pod.get("uid"))
    if not all(isinstance(value, str) for value in values):
        return None
    namespace, name, uid = map(str, values)
    return PodIdentity(namespace=namespace, name=name, uid=uid)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()

"""How often each of many may do something."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Left:
    requests: float
    at: float


class RateLimit:
    """Allows each of many `burst` requests at once, and then as many as come back `per_second`.

    The `most` of them that asked last are remembered.
    """

    def __init__(self, *, burst: int, per_second: float, most: int, monotonic: Callable[[], float]) -> None:
        self._burst = burst
        self._per_second = per_second
        self._most = most
        self._monotonic = monotonic
        self._left: dict[Hashable, _Left] = {}

    def allows(self, who: Hashable) -> bool:
        """Whether `who` has one left."""
        return self._requests(who) >= 1

    def take(self, who: Hashable) -> None:
        """`who` has used one."""
        requests = max(0.0, self._requests(who) - 1)
        self._left.pop(who, None)
        while len(self._left) >= self._most:
            del self._left[next(iter(self._left))]
        self._left[who] = _Left(requests=requests, at=self._monotonic())

    def _requests(self, who: Hashable) -> float:
        left = self._left.get(who)
        if left is None:
            return self._burst
        return min(self._burst, left.requests + (self._monotonic() - left.at) * self._per_second)

"""Rate limits by sender."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Remaining:
    requests: float
    updated: float


class RateLimit:
    """Allow each sender `burst` requests at once, then `per_second` more.

    Only the `most` senders with the latest requests are remembered.
    """

    def __init__(self, *, burst: int, per_second: float, most: int, monotonic: Callable[[], float]) -> None:
        self._burst = burst
        self._per_second = per_second
        self._most = most
        self._monotonic = monotonic
        self._remaining: dict[Hashable, _Remaining] = {}

    def allows(self, sender: Hashable) -> bool:
        """Whether `sender` has a request left."""
        return self._requests(sender) >= 1

    def take(self, sender: Hashable) -> None:
        """Count a request of `sender`."""
        requests = max(0.0, self._requests(sender) - 1)
        self._remaining.pop(sender, None)
        while len(self._remaining) >= self._most:
            del self._remaining[next(iter(self._remaining))]
        self._remaining[sender] = _Remaining(requests=requests, updated=self._monotonic())

    def _requests(self, sender: Hashable) -> float:
        remaining = self._remaining.get(sender)
        if remaining is None:
            return self._burst
        return min(self._burst, remaining.requests + (self._monotonic() - remaining.updated) * self._per_second)

"""Statuses that the API server rejected: the same one is sent again only after a wait, which doubles."""

from collections.abc import Callable, Container, Hashable
from dataclasses import dataclass, field
from typing import Final

FIRST_WAIT_SECONDS: Final = 5.0
LONGEST_WAIT_SECONDS: Final = 300.0
MOST_KINDS: Final = 16
"""Maximum kinds of statuses per job that are remembered."""


@dataclass(slots=True)
class _Refused:
    """How often statuses of a job were rejected, until when (monotonic) they wait, and which kinds of them."""

    count: int = 0
    due: float = 0.0
    kinds: set[Hashable] = field(default_factory=set)


class StatusBackoff:
    """Rejected statuses, by the UID of the job. Statuses of one kind differ only in what nobody waits for."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._refused: dict[str, _Refused] = {}

    def put(self, uid: str, kind: Hashable) -> float:
        """Record a rejected status of this kind; return the wait in seconds until it may be sent again."""
        now = self._monotonic()
        known = self._refused.setdefault(uid, _Refused())
        if now >= known.due:
            known.due = now + min(FIRST_WAIT_SECONDS * 2.0 ** min(known.count, 32), LONGEST_WAIT_SECONDS)
            known.count += 1
        if len(known.kinds) >= MOST_KINDS:
            known.kinds.clear()
        known.kinds.add(kind)
        return known.due - now

    def seconds_until_allowed(self, uid: str, kind: Hashable) -> float:
        """Return 0 if a status of this kind may be sent now, else the wait."""
        known = self._refused.get(uid)
        return 0.0 if known is None or kind not in known.kinds else max(0.0, known.due - self._monotonic())

    def forget(self, uid: str) -> None:
        """Forget a job whose status was accepted, or that has ended or no longer exists."""
        self._refused.pop(uid, None)

    def keep_only(self, uids: Container[str]) -> None:
        """Forget all other jobs."""
        self._refused = {uid: refused for uid, refused in self._refused.items() if uid in uids}

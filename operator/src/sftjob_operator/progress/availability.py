"""Since when trainers' reports could arrive: silence before that proves nothing."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

TICK_SECONDS: Final = 10.0
_LONGEST_TICK: Final = timedelta(seconds=3 * TICK_SECONDS)
"""Jump of the clock between two ticks that shows that the process was stopped, or too busy to receive reports."""


class EndpointAvailability:
    """The endpoint's own knowledge of reports that it could not accept."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._ticked = now()
        self.available_since = now()
        """When a report was last rejected for a reason outside the report, or the process started or stalled."""
        self.certificate_since: datetime | None = None
        """When the CA that signs the endpoint's certificate last changed in this process."""

    def interrupted(self) -> None:
        """Record that a possibly valid connection or report was rejected."""
        self.available_since = self._now()

    def certificate_changed(self) -> None:
        """Record a CA change: trainers need the new CA before they can report again."""
        self.certificate_since = self._now()

    def tick(self) -> None:
        """Check whether the process stalled."""
        before, self._ticked = self._ticked, self._now()
        if not timedelta(0) <= self._ticked - before <= _LONGEST_TICK:
            self.interrupted()

    async def watch(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.tick()

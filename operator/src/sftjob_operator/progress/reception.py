"""Since when nothing kept trainers' reports from arriving: silence before that proves nothing."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

TICK_SECONDS: Final = 10.0
_LONGEST_TICK: Final = timedelta(seconds=3 * TICK_SECONDS)
"""A clock that moved by more between two ticks: the process was stopped, or so busy that reports could not arrive."""


class Reception:
    """What the endpoint itself knows of reports that it could not take."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._ticked = now()
        self.undisturbed_since = now()
        """When a report was last turned away for a reason that is not its own, or the process began or stood still."""
        self.certificate_since: datetime | None = None
        """When the CA that signs the endpoint's certificate last changed in this process."""

    def disturbed(self) -> None:
        """A connection or report was turned away that may have been a good one."""
        self.undisturbed_since = self._now()

    def certificate_changed(self) -> None:
        """Trainers need the new CA before they can report again."""
        self.certificate_since = self._now()

    def tick(self) -> None:
        """See whether the process stood still."""
        before, self._ticked = self._ticked, self._now()
        if not timedelta(0) <= self._ticked - before <= _LONGEST_TICK:
            self.disturbed()

    async def watch(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.tick()

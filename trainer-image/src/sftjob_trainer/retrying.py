"""Doing again, for a bounded time, what failed for a reason that passes by itself."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

logger = logging.getLogger(__name__)

_PASSING: Final = (Reason.UNREACHABLE, Reason.INTERNAL_ERROR)
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often to try, and how long to wait before the second try; each further pause is twice as long.

    The default gives up after 2 + 4 + 8 + 16 = 30 seconds of waiting.
    """

    tries: int = 5
    first_pause_seconds: float = 2.0
    sleep: Callable[[float], None] = time.sleep

    def through(self, action: Callable[[], _Result]) -> _Result:
        """The result of `action`, which is done again while it fails with a reason that may pass by.

        Raises:
            Failure: that of the last try, or at once any other.
        """
        pause = self.first_pause_seconds
        for _ in range(self.tries - 1):
            try:
                return action()
            except Failure as failure:
                if failure.reason not in _PASSING:
                    raise
                logger.warning("%s; trying again in %g s", failure.message, pause)
            self.sleep(pause)
            pause *= 2
        return action()

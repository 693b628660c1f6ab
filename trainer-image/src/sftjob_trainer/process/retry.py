"""Retry failures with temporary causes, for a bounded time."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

_TEMPORARY: Final = (Reason.UNREACHABLE, Reason.INTERNAL_ERROR)
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often to try, and how long to wait before the second attempt; each further pause is twice as long.

    The default gives up after 2 + 4 + 8 + 16 = 30 seconds of waiting.
    """

    max_attempts: int = 5
    first_backoff_seconds: float = 2.0
    sleep: Callable[[float], None] = time.sleep

    def call(self, action: Callable[[], _Result]) -> _Result:
        """The result of `action`, which is retried while it fails for a temporary reason.

        Raises:
            StageError: that of the last attempt; any other failure at once.
        """
        backoff = self.first_backoff_seconds
        for _ in range(self.max_attempts - 1):
            try:
                return action()
            except StageError as failure:
                if failure.reason not in _TEMPORARY:
                    raise
                logger.warning("%s; trying again in %g s", failure.message, backoff)
            self.sleep(backoff)
            backoff *= 2
        return action()

"""JSON log lines, one object each; lines about a job include its newest attempt and Pod."""

import json
import logging
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

REPEAT_SECONDS: Final = 300.0
"""How long an identical line is not repeated."""
MOST_REMEMBERED: Final = 10_000
"""Number of lines after which all are forgotten."""
_NUMBER: Final = re.compile(r"\d+")
NewestPod = Callable[[str], tuple[int, str] | None]
"""Function that returns attempt and name of the newest Pod of the job NAMESPACE/NAME, or None without a Pod."""


class JsonFormatter(logging.Formatter):
    """`{"time": ..., "level": "info", "logger": ..., "job": "NAMESPACE/NAME", "attempt": 1, "pod": ..., "msg": ...}`.

    A record's `extra` names its job as `job`. Unknown fields are omitted.
    """

    def __init__(self, newest_pod: NewestPod = lambda _: None) -> None:
        super().__init__()
        self.newest_pod = newest_pod

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        job = getattr(record, "job", None)
        attempt, pod = (self.newest_pod(job) if job is not None else None) or (None, None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "job": job,
            "attempt": attempt,
            "pod": pod,
            "msg": record.getMessage(),
            "traceback": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)


class LogDeduplicator:
    """Filter of repeated lines: the same line about one object is dropped for a while, however often it is retried."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._logged: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        """Number of remembered lines."""
        return len(self._logged)

    def is_new(self, about: str, text: str) -> bool:
        """Whether to write a line; numbers, such as ports, are ignored in the comparison."""
        now, line = self._monotonic(), (about, _NUMBER.sub("N", text))
        if now - self._logged.get(line, -math.inf) < REPEAT_SECONDS:
            return False
        if len(self._logged) >= MOST_REMEMBERED:
            self._logged.clear()
        self._logged[line] = now
        return True


def configure_logging() -> None:
    """Log to stderr: the operator's own records from INFO on, warnings of the libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("kubernetes").setLevel(logging.ERROR)  # its warnings recur as errors, which the operator logs
    logging.getLogger("sftjob_operator").setLevel(logging.INFO)


def name_pods(newest_pod: NewestPod) -> None:
    """From now on, lines about a job include its Pod."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.formatter.newest_pod = newest_pod

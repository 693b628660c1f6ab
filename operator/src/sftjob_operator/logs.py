"""Log lines as JSON, one object each; those about a job tell its newest attempt and Pod too."""

import json
import logging
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

REPEAT_SECONDS: Final = 300.0
"""How long the same line is not written again."""
MOST_REMEMBERED: Final = 10_000
"""Lines after which all are forgotten."""
_NUMBER: Final = re.compile(r"\d+")
NewestPod = Callable[[str], tuple[int, str] | None]
"""Attempt and name of the newest Pod of the job NAMESPACE/NAME, or None if there is none."""


class JsonFormatter(logging.Formatter):
    """`{"time": ..., "level": "info", "logger": ..., "job": "NAMESPACE/NAME", "attempt": 1, "pod": ..., "msg": ...}`.

    A record is about the job that its `extra` names as `job`. What is not known is left out.
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


class LogPace:
    """What was logged lately: the same about one thing is no news for a while, however often it is tried again."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._logged: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        """Lines that are remembered."""
        return len(self._logged)

    def is_news(self, about: str, text: str) -> bool:
        """Whether a line is worth writing; numbers, such as of ports, make no difference."""
        now, line = self._monotonic(), (about, _NUMBER.sub("N", text))
        if now - self._logged.get(line, -math.inf) < REPEAT_SECONDS:
            return False
        if len(self._logged) >= MOST_REMEMBERED:
            self._logged.clear()
        self._logged[line] = now
        return True


def configure_logging() -> None:
    """Log to stderr: everything of ours from INFO on, warnings of the libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("kubernetes").setLevel(logging.ERROR)  # what it warns of comes as an error, which we tell
    logging.getLogger("sftjob_operator").setLevel(logging.INFO)


def name_pods(newest_pod: NewestPod) -> None:
    """From now on, lines about a job tell its Pod."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.formatter.newest_pod = newest_pod

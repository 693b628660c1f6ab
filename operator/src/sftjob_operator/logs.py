"""Log lines as key=value pairs; lines about a job carry job=NAMESPACE/NAME."""

import json
import logging
from datetime import UTC, datetime


class KeyValueFormatter(logging.Formatter):
    """`time=... level=info logger=... job=NAMESPACE/NAME msg="..."`; a traceback follows in its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        pairs = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "job": getattr(record, "job", None),
            "msg": json.dumps(record.getMessage(), ensure_ascii=False),
        }
        line = " ".join(f"{key}={value}" for key, value in pairs.items() if value is not None)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging() -> None:
    """Log to stderr: everything of ours from INFO on, warnings of the libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("kubernetes").setLevel(logging.ERROR)  # what it warns of comes as an error, which we tell
    logging.getLogger("sftjob_operator").setLevel(logging.INFO)

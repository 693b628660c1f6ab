"""Redact secrets in all trainer output: logs, the outcome, and thus the resource's status."""

import base64
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, TextIO, cast
from urllib.parse import quote

from sftjob_contract.names import ENV_SECRET_VARIABLES
from sftjob_contract.secrets import without_secrets

_SECRET_NAME: Final = re.compile(
    r"(?i)(?!SFTJOB_).*(TOKEN|PASSWORD|PASSWD|SECRET|API_KEY|ACCESS_KEY|PRIVATE_KEY)(_ID)?"
)
"""Variables that contain a secret. The trainer's own variables with such names contain file names."""
_SHORTEST_SECRET: Final = 8
"""Minimum number of characters; a shorter value is not a secret and would match parts of ordinary words."""


class Redacted(logging.Formatter):
    """Redacts secrets in all log records, including tracebacks."""

    def __init__(self, secrets: Mapping[str, str], fmt: str = "%(message)s") -> None:
        """`secrets` are values by variable; `fmt` is the format of logging.Formatter."""
        super().__init__(fmt)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return redact(super().format(record), self._secrets)


class _RedactedStream:
    """A text stream that redacts secrets within each write."""

    def __init__(self, stream: TextIO, secrets: Mapping[str, str]) -> None:
        self._stream = stream
        self._secrets = secrets

    def write(self, text: str) -> int:
        """See TextIO."""
        self._stream.write(redact(text, self._secrets))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        """See TextIO."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_streams(secrets: Mapping[str, str]) -> None:
    """Redact what libraries print, warn of, or exit with. Non-Python code is not covered."""
    sys.stdout = cast("TextIO", _RedactedStream(sys.stdout, secrets))
    sys.stderr = cast("TextIO", _RedactedStream(sys.stderr, secrets))


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """`text` with secrets replaced by their variables' names, and without anything else that looks like a secret."""
    for name, value in sorted(secrets.items(), key=lambda secret: len(secret[1]), reverse=True):
        for fmt in _encodings(value):
            text = text.replace(fmt, f"[{name}]")
    return without_secrets(text)


def secrets_in(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Variables that must never be shown: those named like tokens, passwords and keys, and those listed explicitly."""
    named = set(environ.get(ENV_SECRET_VARIABLES, "").split(","))
    return {
        name: value
        for name, value in environ.items()
        if len(value) >= _SHORTEST_SECRET and (name in named or _SECRET_NAME.fullmatch(name))
    }


def _encodings(value: str) -> dict[str, None]:
    """Encodings of a value: plain, in a URL, in JSON, in a basic authentication header."""
    encoded = base64.b64encode(value.encode(errors="surrogateescape")).decode()
    return dict.fromkeys((value, quote(value, safe=""), quote(value), json.dumps(value)[1:-1], encoded))

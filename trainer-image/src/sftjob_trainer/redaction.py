"""What must never be shown, wherever text of ours goes: logs, the outcome, and with it the resource's status."""

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
"""Variables that hold a secret. Those of ours that are called so name files."""
_SHORTEST_SECRET: Final = 8
"""Characters; a shorter one is no secret, and would be found in every other word."""


class Redacted(logging.Formatter):
    """Leaves secrets out of whatever is logged, tracebacks included."""

    def __init__(self, secrets: Mapping[str, str], form: str = "%(message)s") -> None:
        """`secrets` are values by variable, `form` is that of logging.Formatter."""
        super().__init__(form)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return redact(super().format(record), self._secrets)


class _RedactedStream:
    """A text stream that leaves out secrets of what is written at once."""

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
    """Leave secrets out of what libraries print, warn of, or end with. Code that is not Python's writes as it likes."""
    sys.stdout = cast("TextIO", _RedactedStream(sys.stdout, secrets))
    sys.stderr = cast("TextIO", _RedactedStream(sys.stderr, secrets))


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """`text` with the names of variables in place of their values, and without what looks like a secret besides."""
    for name, value in sorted(secrets.items(), key=lambda secret: len(secret[1]), reverse=True):
        for form in _forms(value):
            text = text.replace(form, f"[{name}]")
    return without_secrets(text)


def secrets_in(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables that must never be shown: by what they are called tokens, passwords and keys, or named to us."""
    named = set(environ.get(ENV_SECRET_VARIABLES, "").split(","))
    return {
        name: value
        for name, value in environ.items()
        if len(value) >= _SHORTEST_SECRET and (name in named or _SECRET_NAME.fullmatch(name))
    }


def _forms(value: str) -> dict[str, None]:
    """How a value may be written: as it is, in a URL, in JSON, in the header of basic authentication."""
    encoded = base64.b64encode(value.encode(errors="surrogateescape")).decode()
    return dict.fromkeys((value, quote(value, safe=""), quote(value), json.dumps(value)[1:-1], encoded))

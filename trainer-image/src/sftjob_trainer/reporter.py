"""Live reports to the operator: a thread of its own that can neither hold up nor end the training.

Only the latest state is kept, so a slow or absent endpoint costs nothing but freshness: every report is whole.
"""

import http.client
import logging
import ssl
import threading
import types
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sftjob_contract.codec import to_json
from sftjob_contract.progress import Progress

logger = logging.getLogger(__name__)

_CLOSED: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What a connection that is no longer there gives."""
_ANSWER_BYTES: Final = 64 * 1024
"""A longer answer is not read to its end, which costs the connection."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to POST: an https URL, the CA that signs for it, and the file with the bearer token."""

    url: str
    ca: Path | None
    token: Path | None


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds: between reports, after the first and at most after repeated failures, per request, and at the end."""

    interval: float = 2.0
    first_backoff: float = 1.0
    max_backoff: float = 30.0
    timeout: float = 10.0
    flush: float = 5.0


class Reporter:
    """Sends the state last offered. A context manager: leaving it sends what is pending, within `pace.flush`."""

    def __init__(self, endpoint: Endpoint | None, pace: Pace = Pace()) -> None:
        """Without an endpoint nothing is sent."""
        self._line = None if endpoint is None else Line(endpoint, timeout=pace.timeout)
        self._pace = pace
        self._changed = threading.Condition()
        self._pending: Progress | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="progress-reporter", daemon=True)

    def offer(self, progress: Progress) -> None:
        """Replace the state to send. Returns at once, whatever the endpoint does."""
        with self._changed:
            self._pending = progress
            self._changed.notify()

    def __enter__(self) -> Self:
        """Start sending."""
        if self._line is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Send what is pending at once, and give up after the flush time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._line is not None:
            self._thread.join(self._pace.flush)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closing)
                progress, self._pending = self._pending, None
                last = self._closing
            if progress is None:
                break
            error = self._error_of_sending(progress)
            failures = failures + 1 if error else 0
            if error:
                self._keep(progress)
            if failures == 1:
                logger.warning("progress could not be reported, trying again: %s", _told(error))
            if last:
                break
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._pause(failures))
        if self._line is not None:
            self._line.close()

    def _error_of_sending(self, progress: Progress) -> Exception | None:
        if self._line is None:
            return None
        try:
            self._line.post(progress)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return error
        return None

    def _keep(self, progress: Progress) -> None:
        """Put back a state that was not sent, unless there is a newer one."""
        with self._changed:
            self._pending = self._pending or progress

    def _pause(self, failures: int) -> float:
        return self._pace.interval if failures == 0 else backoff(failures, self._pace)


def _told(error: Exception | None) -> str:
    """What keeps a report from being sent. An operator that was installed again has another CA than this Pod knows."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{error}; was the operator installed again? Its new CA is used as soon as it is in the file of this Pod, "
            "which is read for every report"
        )
    return str(error)


def backoff(failures: int, pace: Pace) -> float:
    """Seconds to wait after so many failures in a row: doubling, bounded."""
    return float(min(pace.first_backoff * 2 ** min(failures - 1, 16), pace.max_backoff))


class Line:
    """The way to the operator: one HTTPS connection, kept open between reports.

    Token and CA are read again for every report. The kubelet rotates the one, and an operator that was installed again
    has another one of the other.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float) -> None:
        """`timeout` in seconds is for connecting and for each answer."""
        self._endpoint = endpoint
        self._timeout = timeout
        self._ca: bytes | None = None
        self._connection: http.client.HTTPSConnection | None = None

    def post(self, progress: Progress) -> None:
        """POST one report.

        Raises:
            OSError: no connection, a certificate that the CA did not sign, or an answer other than 2xx.
            http.client.HTTPException: the answer is not HTTP.
            ValueError: the URL is not one to report to, or the progress is not sayable in JSON.
        """
        url = urllib.parse.urlsplit(self._endpoint.url)
        if url.scheme != "https" or not url.hostname:
            raise ValueError("the URL must begin with https://")
        headers = {"Content-Type": "application/json"}
        if self._endpoint.token is not None:
            headers["Authorization"] = f"Bearer {self._endpoint.token.read_text(encoding='utf-8').strip()}"
        body = to_json(progress).encode()
        self._follow_ca()
        if self._connection is not None:
            with suppress(*_CLOSED):  # the server may close it at any time
                self._exchange(self._connection, url.path, body, headers)
                return
        context = ssl.create_default_context(cadata=None if self._ca is None else self._ca.decode("ascii"))
        self._connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=self._timeout, context=context)
        self._exchange(self._connection, url.path, body, headers)

    def close(self) -> None:
        """Close the connection; the next report opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _follow_ca(self) -> None:
        """Take the CA as it is now. A connection that another one vouched for is given up."""
        if self._endpoint.ca is None:
            return
        before, self._ca = self._ca, self._endpoint.ca.read_bytes()
        if before is not None and before != self._ca:
            logger.info(
                "the CA of the operator in %s has changed: reports are sent with the new one", self._endpoint.ca
            )
            self.close()

    def _exchange(
        self, connection: http.client.HTTPSConnection, path: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        """Send a report and take the answer; after an error the connection is not used again."""
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read(_ANSWER_BYTES)
        except BaseException:
            self.close()
            raise
        if not answer.isclosed():
            self.close()
        if not 200 <= answer.status < 300:
            raise OSError(f"the answer was {answer.status} {answer.reason}")

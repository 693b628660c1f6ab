"""Live reports to the operator, from a separate thread that can neither delay nor end the training.

Only the latest state is kept, and every report is complete: a slow or absent endpoint only makes reports less fresh.
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
from sftjob_contract.reports.progress import Progress

logger = logging.getLogger(__name__)

_CLOSED: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""Errors of a closed connection."""
_MAX_RESPONSE_BYTES: Final = 64 * 1024
"""Maximum response size; a longer response is not read to its end, which closes the connection."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to POST: an https URL, the CA that signs its certificate, and the file with the bearer token."""

    url: str
    ca: Path | None
    token: Path | None


@dataclass(frozen=True, kw_only=True)
class ReportPolicy:
    """Seconds: between reports, after the first and at most after repeated failures, per request, and at the end."""

    interval: float = 2.0
    first_backoff: float = 1.0
    max_backoff: float = 30.0
    timeout: float = 10.0
    flush: float = 5.0


class Reporter:
    """Sends the latest offered state. A context manager: leaving it sends the pending state within `policy.flush`."""

    def __init__(self, endpoint: Endpoint | None, policy: ReportPolicy = ReportPolicy()) -> None:
        """Without an endpoint, nothing is sent."""
        self._operator = None if endpoint is None else OperatorConnection(endpoint, timeout=policy.timeout)
        self._policy = policy
        self._changed = threading.Condition()
        self._pending: Progress | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="progress-reporter", daemon=True)

    def offer(self, progress: Progress) -> None:
        """Replace the state to send. Returns at once, regardless of the endpoint."""
        with self._changed:
            self._pending = progress
            self._changed.notify()

    def __enter__(self) -> Self:
        """Start sending."""
        if self._operator is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Send the pending state at once, and give up after the flush time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._operator is not None:
            self._thread.join(self._policy.flush)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closing)
                progress, self._pending = self._pending, None
                last = self._closing
            if progress is None:
                break
            error = self._send(progress)
            failures = failures + 1 if error else 0
            if error:
                self._put_back(progress)
            if failures == 1:
                logger.warning("progress could not be reported, trying again: %s", _describe_error(error))
            if last:
                break
            pause = backoff(failures, self._policy) if failures else self._policy.interval
            with self._changed:
                self._changed.wait_for(lambda: self._closing, pause)
        if self._operator is not None:
            self._operator.close()

    def _send(self, progress: Progress) -> Exception | None:
        if self._operator is None:
            return None
        try:
            self._operator.post(progress)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return error
        return None

    def _put_back(self, progress: Progress) -> None:
        """Put back a state that was not sent, unless there is a newer one."""
        with self._changed:
            self._pending = self._pending or progress


def _describe_error(error: Exception | None) -> str:
    """Why a report cannot be sent. A reinstalled operator has another CA than the one this Pod knows."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{error}; was the operator installed again? Its new CA is used as soon as it is in the file of this Pod, "
            "which is read for every report"
        )
    return str(error)


def backoff(failures: int, policy: ReportPolicy) -> float:
    """Seconds to wait after `failures` failures in a row: doubling, bounded."""
    return float(min(policy.first_backoff * 2 ** min(failures - 1, 16), policy.max_backoff))


class OperatorConnection:
    """The HTTPS connection to the operator, kept open between reports.

    Token and CA are read again for every report: the kubelet rotates the token, and a reinstalled operator has another
    CA.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float) -> None:
        """`timeout` in seconds applies to connecting and to each response."""
        self._endpoint = endpoint
        self._timeout = timeout
        self._ca: bytes | None = None
        self._connection: http.client.HTTPSConnection | None = None

    def post(self, progress: Progress) -> None:
        """POST one report.

        Raises:
            OSError: no connection, a certificate that the CA did not sign, or a response other than 2xx.
            http.client.HTTPException: the response is not HTTP.
            ValueError: the URL is invalid for reports, or JSON cannot represent the progress.
        """
        url = urllib.parse.urlsplit(self._endpoint.url)
        if url.scheme != "https" or not url.hostname:
            raise ValueError("the URL must begin with https://")
        headers = {"Content-Type": "application/json"}
        if self._endpoint.token is not None:
            headers["Authorization"] = f"Bearer {self._endpoint.token.read_text(encoding='utf-8').strip()}"
        body = to_json(progress).encode()
        self._reload_ca()
        if self._connection is not None:
            with suppress(*_CLOSED):  # the server may close it at any time
                self._exchange(self._connection, url.path, body, headers)
                return
        context = ssl.create_default_context(cadata=None if self._ca is None else self._ca.decode("ascii"))
        self._connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=self._timeout, context=context)
        self._exchange(self._connection, url.path, body, headers)

    def close(self) -> None:
        """Close the connection; the next report opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reload_ca(self) -> None:
        """Read the current CA. A connection that another CA verified is closed."""
        if self._endpoint.ca is None:
            return
        previous, self._ca = self._ca, self._endpoint.ca.read_bytes()
        if previous is not None and previous != self._ca:
            logger.info(
                "the CA of the operator in %s has changed: reports are sent with the new one", self._endpoint.ca
            )
            self.close()

    def _exchange(
        self, connection: http.client.HTTPSConnection, path: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        """Send a report and read the response; after an error the connection is not reused."""
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read(_MAX_RESPONSE_BYTES)
        except BaseException:
            self.close()
            raise
        if not response.isclosed():
            self.close()
        if not 200 <= response.status < 300:
            raise OSError(f"the response was {response.status} {response.reason}")

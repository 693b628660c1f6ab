"""Network errors: which address could not be reached, and what went wrong.

Server and library messages are never repeated, since they may echo secrets; only the kind of error is named.
"""

import re
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

TEMPORARY_STATUSES: Final = frozenset({408, 425, 429})
"""HTTP statuses below 500 that are temporary."""
_SERVER_ERRORS: Final = 500
_NO_DOWNLOAD: Final = "LocalEntryNotFoundError"
"""Error of huggingface_hub for a file that it could neither download nor find in its cache."""
_CURL: Final = re.compile(r"curl(?:Code: | error )?\D{0,3}(\d{1,2})\b|CURL error \[?(\d{1,2})\]?")
_CURL_PROBLEMS: Final = {
    5: "the name of the proxy is not found",
    6: "its name is not found",
    7: "the connection fails",
    28: "it does not answer in time",
    35: "the TLS handshake fails",
    60: "its certificate is not trusted",
    77: "the file of trusted certificates cannot be read",
}
"""Meaning of libcurl's error codes, which object store clients pass on
(https://curl.se/libcurl/c/libcurl-errors.html)."""


def unreachable(subject: str, url: str | None, error: BaseException) -> StageError:
    """The StageError for a request for `subject` (a source or destination) without a response; `url` is its target."""
    location = address(url)
    target = f"{location}{_through_proxy(url)}" if location else "the server"
    return StageError(Reason.UNREACHABLE, f"{subject}: {target} cannot be reached: {describe_error(error)}")


def unavailable(subject: str, url: str | None, status: int, server: str = "the server") -> StageError:
    """The StageError for an error response: HTTP 5xx and similar are temporary, others are unexpected."""
    location = address(url)
    suffix = f" {location}" if location else ""
    temporary = status >= _SERVER_ERRORS or status in TEMPORARY_STATUSES
    return StageError(
        Reason.UNREACHABLE if temporary else Reason.INTERNAL_ERROR,
        f"{subject}: {server}{suffix} answered with HTTP {status}",
    )


def is_network_error(error: BaseException) -> bool:
    """Whether `error` comes from a connection, and not from a file."""
    chain = list(_error_chain(error))
    network = (socket.gaierror, ssl.SSLError, ConnectionError, TimeoutError)
    return type(error).__name__ == _NO_DOWNLOAD or any(
        isinstance(link, network) or type(link).__module__.startswith("httpx") for link in chain
    )


def url_of(error: BaseException) -> str | None:
    """Target URL of the request behind an error of httpx, which is huggingface_hub's HTTP library."""
    for link in _error_chain(error):
        with suppress(RuntimeError):  # an httpx error without its request
            if (request := getattr(link, "request", None)) is not None:
                return str(request.url)
    return None


def address(url: str | None) -> str | None:
    """Scheme, host and port of `url`, without credentials, path or query."""
    try:
        parts = urllib.parse.urlsplit(url or "")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname and parts.scheme else None


def describe_error(error: BaseException) -> str:
    """A description of `error` by the most specific error in its chain."""
    chain = list(_error_chain(error))
    for kinds, description in (
        ((socket.gaierror,), "its name is not found"),
        ((ssl.SSLCertVerificationError,), "its certificate is not trusted"),
        ((ssl.SSLError,), "the TLS handshake fails"),
        ((ConnectionRefusedError,), "it refuses the connection"),
        ((TimeoutError,), "it does not answer in time"),
        ((ConnectionError,), "it breaks the connection off"),
    ):
        if any(isinstance(link, kinds) for link in chain):
            return description
    names = [type(link).__name__ for link in chain]
    if any("Timeout" in name for name in names):
        return "it does not answer in time"
    if any("Proxy" in name for name in names) or any("Tunnel connection failed" in str(link) for link in chain):
        return "the proxy refuses"
    codes = (found for link in chain if (found := _CURL.search(str(link))))
    known = (_CURL_PROBLEMS.get(int(found[1] or found[2])) for found in codes)
    return next((description for description in known if description), names[0])


def _error_chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and its causes, each once."""
    seen: set[int] = set()
    following: list[object] = [error]
    while following:
        link = following.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        following += [getattr(link, "reason", None), link.__cause__, link.__context__]


def _through_proxy(url: str | None) -> str:
    """The proxy (HTTPS_PROXY, NO_PROXY) that requests for `url` go through, if any."""
    parts = urllib.parse.urlsplit(url or "")
    if urllib.request.proxy_bypass(parts.netloc):
        return ""
    proxy = address(urllib.request.getproxies().get(parts.scheme))
    return f" through the proxy {proxy}" if proxy else ""

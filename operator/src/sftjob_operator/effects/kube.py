"""The Cluster on a real API server, through the public parts of `kubernetes.aio` for plain JSON.

Only the client's configuration, transport and authentication are imported: its typed models and API classes would use
more memory than the whole operator, and the operator renders and reads every object as a dict.
"""

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from sftjob_contract.names import GROUP, KIND, PLURAL, VERSION
from sftjob_operator.api import page_outline
from sftjob_operator.effects.cluster import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Object,
    UnavailableError,
    Wanted,
)

Traces = Sequence[aiohttp.TraceConfig]

REQUEST_TIMEOUT_SECONDS: Final = 30
LONGEST_RETRY_AFTER_SECONDS: Final = 300.0
"""Maximum Retry-After that is honoured: a proxy may send any value."""
PAGE_SIZE: Final = 250
"""Objects per page of a list, so that responses stay small."""
_USER_AGENT: Final = "sftjob-operator"
"""The server records the part before the slash as the field manager."""

_LEASE: Final = "Lease"
_PATHS: Final = {
    "Pod": ("/api/v1", "pods"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Service": ("/api/v1", "services"),
    "Event": ("/api/v1", "events"),
    "Secret": ("/api/v1", "secrets"),
    _LEASE: ("/apis/coordination.k8s.io/v1", "leases"),
    KIND: (f"/apis/{GROUP}/{VERSION}", PLURAL),
}
_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 -- a path


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Connection parameters of the server, for another client of the same process. Paths are of PEM files."""

    server: str
    authorization: str | None = field(repr=False)
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    verify: bool
    proxy: str | None


class KubeCluster:
    """Client of the API server that KUBECONFIG names, or of this Pod's own cluster."""

    def __init__(self, configuration: Configuration, kubeconfig: Path | None, traces: Traces) -> None:
        self._configuration = configuration
        self._kubeconfig = kubeconfig
        self._traces = traces
        self._client = _client(configuration)
        self._may_write: Callable[[], bool] = lambda: True

    def write_while(self, held: Callable[[], bool]) -> None:
        """From now on, write only while `held` is true; Leases themselves are exempt."""
        self._may_write = held

    @classmethod
    async def connect(cls, kubeconfig: Path | None, traces: Traces = ()) -> "KubeCluster":
        """Read the credentials without a request. `traces` observe every request.

        Raises:
            ClusterError: the configuration is missing or unusable.
        """
        return cls(await _configuration(kubeconfig, traces), kubeconfig, traces)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def credentials(self) -> Credentials:
        """Return the current credentials; tokens of a Pod or of an exec plugin are read again."""
        await self._reload()
        configuration = self._configuration
        authentication = await configuration.auth_settings()
        return Credentials(
            server=configuration.host,
            authorization=authentication["BearerToken"]["value"] if "BearerToken" in authentication else None,
            ca_path=configuration.ssl_ca_cert,
            certificate_path=configuration.cert_file,
            key_path=configuration.key_file,
            verify=configuration.verify_ssl,
            proxy=configuration.proxy,
        )

    async def create(self, body: Object) -> Object:
        """See Cluster."""
        return await self._request("POST", _path(body["kind"], body["metadata"]["namespace"]), body)

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """See Cluster."""
        return await self._request("GET", _path(kind, namespace, name))

    async def replace(self, body: Object) -> Object:
        """See Cluster."""
        metadata = body["metadata"]
        return await self._request("PUT", _path(body["kind"], metadata["namespace"], metadata["name"]), body)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """See Cluster."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        await self._request("DELETE", _path(kind, namespace, name), options)

    async def list(
        self, kind: str, namespace: str | None, label: str | None = None, wanted: Wanted | None = None
    ) -> AsyncIterator[Object]:
        """See Cluster. Adds apiVersion and kind to objects, which the server omits in lists."""
        query: dict[str, Any] = {"limit": PAGE_SIZE} | ({"labelSelector": label} if label else {})
        while True:
            page = _page(await self._answer("GET", f"{_path(kind, namespace)}?{urlencode(query)}"), wanted)
            for item in page.get("items") or ():
                yield {"apiVersion": page["apiVersion"], "kind": kind, **item}
            if not (token := (page.get("metadata") or {}).get("continue")):
                break
            query["continue"] = token

    async def events_about(self, namespace: str, uid: str) -> tuple[Object, ...]:
        """See Cluster."""
        query = urlencode({"fieldSelector": f"involvedObject.uid={uid}", "limit": PAGE_SIZE})
        page = await self._request("GET", f"{_path('Event', namespace)}?{query}")
        return tuple(page.get("items") or ())

    async def patch_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """See Cluster."""
        return await self._request("PATCH", f"{_path(KIND, namespace, name)}/status", dict(patch))

    async def review_token(self, token: str, audience: str) -> Object:
        """See Cluster."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self._request("POST", _TOKEN_REVIEWS, review)
        status: Object = answer.get("status") or {}
        return status

    async def _request(self, method: str, path: str, body: Object | None = None) -> Object:
        return (await self._answer(method, path, body)).json()

    async def _answer(self, method: str, path: str, body: Object | None = None) -> "_Answer":
        """Return the response if the server executed the request."""
        answer = await self._send(method, path, body)
        if answer.status == 401:  # the token may have been rotated since it was read
            await self._reload()
            answer = await self._send(method, path, body)
        if answer.status < 300:
            return answer
        raise _error(answer.status, answer.json(), method)

    async def _send(self, method: str, path: str, body: Object | None) -> "_Answer":
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json",
            "User-Agent": _USER_AGENT,
        }
        try:
            await self._client.update_params_for_auth(headers, None, ["BearerToken"], path, method, body)
            if method != "GET" and not self._may_write() and not path.startswith(_PATHS[_LEASE][0]):
                raise UnavailableError(f"{method} {path}: not sent, because this operator does not hold its Lease")
            response = await self._client.call_api(
                method,
                self._configuration.host + path,
                header_params=headers,
                body=body,
                _request_timeout=REQUEST_TIMEOUT_SECONDS,
            )
            return _Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ConfigException) as error:
            raise UnavailableError(f"{method} {path}: {type(error).__name__}: {error}") from error

    async def _reload(self) -> None:
        fresh = await _configuration(self._kubeconfig, self._traces)
        used = self._configuration
        if (fresh.host, fresh.ssl_ca_cert, fresh.cert_file) != (used.host, used.ssl_ca_cert, used.cert_file):
            stale, self._client = self._client, _client(fresh)
            await stale.close()
            self._configuration = fresh
        else:
            used.api_key = fresh.api_key


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    data: bytes

    def json(self) -> Object:
        """Return the JSON object in a response. Any other content (a proxy's page) becomes a Status.

        Raises:
            UnavailableError: it is not such an object, and not an error either.
        """
        return _parsed(self.status, self.headers, self.data)


def _page(answer: _Answer, wanted: Wanted | None) -> Object:
    """Read a page of a list. Unwanted objects are outlines; usually all are, since all were read before."""
    outline = None if wanted is None else page_outline(answer.data)
    if wanted is None or outline is None:
        return answer.json()
    needed = [wanted(item) for item in outline["items"]]
    if any(needed):
        whole = answer.json()["items"]
        outline["items"] = [whole[n] if needed[n] else item for n, item in enumerate(outline["items"])]
    return outline


def _client(configuration: Configuration) -> ApiClient:
    return ApiClient(configuration=configuration)


async def _configuration(kubeconfig: Path | None, traces: Traces) -> Configuration:
    # The environment's proxies and ~/.netrc are ignored: looking them up takes two threads' turns per request, and a
    # netrc entry would conflict with the bearer token. A kubeconfig's proxy-url is honoured.
    configuration = Configuration(client_session_kwargs={"trust_env": False, "trace_configs": list(traces)})
    try:
        if kubeconfig is not None:
            await load_kube_config(
                config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
            )
        else:
            load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster configuration"
        raise ClusterError(f"{where} cannot be used: {error}. Set KUBECONFIG to a kubeconfig file.") from error
    return configuration


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    root, plural = _PATHS[kind]
    scope = f"{root}/namespaces/{quote(namespace, safe='')}" if namespace else root
    return f"{scope}/{plural}/{quote(name, safe='')}" if name else f"{scope}/{plural}"


def _parsed(status: int, headers: Mapping[str, str], data: bytes) -> Object:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        answer = {"kind": "Status", "message": data[:200].decode(errors="replace") or f"HTTP {status}"}
        if status < 300:
            raise UnavailableError(f"the server answered {status} with a body that is not JSON: {answer['message']}")
    if "Retry-After" in headers:
        details = answer.get("details")
        answer["details"] = {
            "retryAfterSeconds": headers["Retry-After"],
            **(details if isinstance(details, dict) else {}),
        }
    return answer


def _error(status: int, answer: Object, method: str) -> ClusterError:
    message = str(answer.get("message") or f"HTTP {status}")
    if status == 404:
        return NotFoundError(message)
    if status == 409:
        taken = answer.get("reason") == "AlreadyExists" or (method == "POST" and answer.get("reason") != "Conflict")
        return AlreadyExistsError(message) if taken else ConflictError(message)
    if status == 403:
        return ForbiddenError(message)
    if status in (400, 405, 413, 415, 422):
        return InvalidError(message, _causes(answer) if status == 422 else ())
    return UnavailableError(message, _retry_after(answer))


def _causes(answer: Object) -> tuple[tuple[str, str], ...]:
    """Fields and messages of a response with reason Invalid. A policy or webhook may use it too, but names no field."""
    causes = (answer.get("details") or {}).get("causes") or ()
    if answer.get("reason") != "Invalid" or not all(isinstance(cause, Mapping) for cause in causes):
        return ()
    return tuple((str(cause.get("field") or ""), str(cause.get("message") or "")) for cause in causes)


def _retry_after(answer: Object) -> float | None:
    """Return the server's Retry-After within bounds; a date is ignored."""
    details = answer.get("details")
    try:
        seconds = float(details["retryAfterSeconds"]) if isinstance(details, dict) else math.nan
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)

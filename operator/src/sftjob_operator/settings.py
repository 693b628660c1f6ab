"""Configuration from the environment, validated at start, and kopf's settings."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import kopf

from sftjob_contract.names import LABEL_JOB
from sftjob_operator.api.types import LABEL_VALUE_PATTERN
from sftjob_operator.api.v1alpha1.scheduling import LABEL_KEY_PATTERN
from sftjob_operator.runtime.watch_age import WATCH_SECONDS

T = TypeVar("T")

DEFAULT_GPU_NODE_LABEL: Final = "nvidia.com/gpu.present=true"
"""Label that NVIDIA's GPU feature discovery sets on GPU nodes."""
LIST_CHUNK: Final = 250
"""Objects per page when kopf lists, so that responses stay small."""
SILENT_INTERVALS: Final = 3
SILENT_MARGIN_SECONDS: Final = 60
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
"""Plain digits: Python's int also accepts underscores and the digits of every script."""
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]+)?")
_URL: Final = re.compile(r"https://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?/*", re.IGNORECASE | re.ASCII)
_IN_CLUSTER: Final = "KUBERNETES_SERVICE_HOST"
"""Set by the kubelet in every Pod."""


class SettingsError(Exception):
    """A setting is missing or invalid; the text names the variable, its value, and what to write instead."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """A listening address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class NamespacedName:
    """Namespace and name of an object."""

    namespace: str
    name: str


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """The operator's settings. The description of each names its environment variable."""

    namespaces: tuple[str, ...]
    """SFTJOB_NAMESPACES: namespaces to watch, separated by commas. Absent: all of them."""
    trainer_image: str
    """SFTJOB_TRAINER_IMAGE: image of jobs without spec.image."""
    gpu_node_label: tuple[str, str | None] | None
    """SFTJOB_GPU_NODE_LABEL: KEY=VALUE, or KEY for any value, of nodes with GPUs; Prepare Pods prefer them. Empty: no
    preference."""
    progress_address: Address
    """SFTJOB_PROGRESS_ADDRESS: HOST:PORT that the progress endpoint listens on. Port 0: a free one."""
    progress_url: str | None
    """SFTJOB_PROGRESS_URL: URL of the endpoint for Pods. Absent: https:// and the address it listens on."""
    progress_tls: Path | NamespacedName
    """SFTJOB_PROGRESS_TLS_DIR: directory with tls.crt, tls.key and ca.crt of the endpoint; they are created if it is
    empty. SFTJOB_PROGRESS_TLS_SECRET: NAMESPACE/NAME of an existing Secret with them instead; it is filled if empty."""
    lease: NamespacedName | None
    """SFTJOB_LEASE: NAMESPACE/NAME of the Lease without which the operator neither decides nor writes. Absent: no
    Lease, for a single operator that is started by hand."""
    pod_name: str | None
    """SFTJOB_POD_NAME: the operator's own Pod; its restarted container takes the Lease over at once."""
    watch_silence_seconds: float
    """SFTJOB_WATCH_SILENCE_SECONDS: a watch that sends nothing for so long, not even a bookmark, is restarted."""
    progress_interval_seconds: float
    """SFTJOB_PROGRESS_INTERVAL_SECONDS: at most one status write per job in this time, except for phase changes; longer
    if hundreds of jobs train (controller.MOST_WRITES_PER_SECOND)."""
    workers: int
    """SFTJOB_WORKERS: jobs processed at the same time."""
    liveness_address: Address | None
    """SFTJOB_LIVENESS_ADDRESS: HOST:PORT of /healthz over HTTP. Absent: disabled."""
    metrics_address: Address | None
    """SFTJOB_METRICS_ADDRESS: HOST:PORT of /metrics over HTTP, for Prometheus. Absent: disabled."""
    metrics_jobs: int
    """SFTJOB_METRICS_JOBS: maximum jobs with series of their own there; the others are only counted."""
    kubeconfig: Path | None
    """KUBECONFIG: how to reach the API server. Absent: this Pod's own cluster, else ~/.kube/config."""

    @property
    def silence_seconds(self) -> float:
        """Time without a report after which a running trainer counts as silent."""
        return SILENT_INTERVALS * self.progress_interval_seconds + SILENT_MARGIN_SECONDS


def read_settings(environ: Mapping[str, str]) -> OperatorSettings:
    """Read the settings from `environ`.

    Raises:
        SettingsError: one is missing or invalid.
    """
    return OperatorSettings(
        namespaces=tuple(name.strip() for name in environ.get("SFTJOB_NAMESPACES", "").split(",") if name.strip()),
        trainer_image=_required(environ, "SFTJOB_TRAINER_IMAGE", "the trainer image, such as sftjob-trainer:0.1.0"),
        gpu_node_label=_gpu_node_label(environ),
        progress_address=_read(environ, "SFTJOB_PROGRESS_ADDRESS", _address, default="0.0.0.0:8443"),
        progress_url=_optional(environ, "SFTJOB_PROGRESS_URL", _url),
        progress_tls=_progress_tls(environ),
        lease=_optional(environ, "SFTJOB_LEASE", _lease_name),
        pod_name=environ.get("SFTJOB_POD_NAME") or None,
        progress_interval_seconds=_read(environ, "SFTJOB_PROGRESS_INTERVAL_SECONDS", _interval, default="10"),
        watch_silence_seconds=_read(environ, "SFTJOB_WATCH_SILENCE_SECONDS", _interval, default="70"),
        workers=_read(environ, "SFTJOB_WORKERS", _workers, default="16"),
        liveness_address=_optional(environ, "SFTJOB_LIVENESS_ADDRESS", _address),
        metrics_address=_optional(environ, "SFTJOB_METRICS_ADDRESS", _address),
        metrics_jobs=_read(environ, "SFTJOB_METRICS_JOBS", _metrics_jobs, default="200"),
        kubeconfig=_kubeconfig(environ),
    )


def configure(settings: kopf.OperatorSettings, watch_silence_seconds: float) -> None:
    """Configure kopf to watch only: no Events, no peering, no finalizers, no scanning."""
    settings.posting.enabled = False  # each would be a request; the controller posts the few that matter
    settings.peering.standalone = True  # one replica, replaced by Recreate, and a Lease
    settings.scanning.disabled = True  # listing CRDs and namespaces needs extra rights
    settings.watching.label_selectors["v1/pods"] = LABEL_JOB
    settings.watching.chunk_size = LIST_CHUNK
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.inactivity_timeout = watch_silence_seconds  # API servers send a bookmark every minute
    settings.queueing.idle_timeout = 0.1  # by default, thousands of idle tasks wait 5 s each after a burst
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = Forever((1, 1, 2, 3, 5, 8, 13, 21, 30))
    settings.process.ultimate_exiting_timeout = 30  # a Pod's usual grace period


class NoDiffBase(kopf.DiffBaseStorage):
    """Compute no differences: kopf would copy every object several times per event, for handlers not used here."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return the part of an object whose changes matter to kopf's own handlers: none."""
        return {}

    def fetch(self, **_: Any) -> None:
        """Return the last handled part: never known."""

    def store(self, **_: Any) -> None:
        """Store nothing: the object gets no annotation."""


class Forever:
    """Waits between retries; the last one repeats forever: an unreachable API server recovers."""

    def __init__(self, waits: tuple[float, ...]) -> None:
        self._waits = waits

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(self._waits, itertools.repeat(self._waits[-1]))


def _progress_tls(environ: Mapping[str, str]) -> Path | NamespacedName:
    secret = _optional(environ, "SFTJOB_PROGRESS_TLS_SECRET", _secret_name)
    directory = environ.get("SFTJOB_PROGRESS_TLS_DIR", "")
    if secret is not None and directory:
        raise SettingsError("SFTJOB_PROGRESS_TLS_DIR and SFTJOB_PROGRESS_TLS_SECRET are both set: set one of them")
    what = "a directory for the certificate, kept over restarts, or SFTJOB_PROGRESS_TLS_SECRET to NAMESPACE/NAME"
    return secret or Path(_required(environ, "SFTJOB_PROGRESS_TLS_DIR", what))


def _gpu_node_label(environ: Mapping[str, str]) -> tuple[str, str | None] | None:
    text = environ.get("SFTJOB_GPU_NODE_LABEL", DEFAULT_GPU_NODE_LABEL)
    key, separator, value = text.partition("=")
    if not text:
        return None
    if not re.fullmatch(LABEL_KEY_PATTERN, key) or not re.fullmatch(LABEL_VALUE_PATTERN, value):
        raise SettingsError(f"SFTJOB_GPU_NODE_LABEL is {text!r}: write KEY=VALUE or KEY of a node label, or nothing")
    return key, value if separator else None


def _required(environ: Mapping[str, str], name: str, what: str) -> str:
    if not (text := environ.get(name, "")):
        raise SettingsError(f"{name} is not set: set it to {what}")
    return text


def _read(environ: Mapping[str, str], name: str, parse: Callable[[str], T], *, default: str) -> T:
    text = environ.get(name) or default
    try:
        return parse(text)
    except ValueError as error:
        raise SettingsError(f"{name} is {text!r}: {error}") from error


def _optional(environ: Mapping[str, str], name: str, parse: Callable[[str], T]) -> T | None:
    return _read(environ, name, parse, default="") if environ.get(name) else None


def _address(text: str) -> Address:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not _WHOLE.fullmatch(port) or int(port) > 65535:
        raise ValueError("write HOST:PORT, such as 0.0.0.0:8443")
    return Address(host=host.strip("[]"), port=int(port))


def _namespaced_name(text: str, what: str) -> NamespacedName:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise ValueError(f"write NAMESPACE/NAME of {what}")
    return NamespacedName(namespace=namespace, name=name)


def _secret_name(text: str) -> NamespacedName:
    return _namespaced_name(text, "a Secret that exists")


def _lease_name(text: str) -> NamespacedName:
    return _namespaced_name(text, "a Lease, which need not exist")


def _url(text: str) -> str:
    found = _URL.fullmatch(text)
    if found is None or int(found["port"] or 0) > 65535:
        raise ValueError("write https://HOST:PORT, the endpoint as Pods reach it, without a path")
    return text.rstrip("/")


def _interval(text: str) -> float:
    if not _DECIMAL.fullmatch(text) or not 1 <= float(text) <= 3600:
        raise ValueError("write a number of seconds from 1 to 3600")
    return float(text)


def _workers(text: str) -> int:
    if not _WHOLE.fullmatch(text) or not 1 <= int(text) <= 256:
        raise ValueError("write a number from 1 to 256")
    return int(text)


def _metrics_jobs(text: str) -> int:
    if not _WHOLE.fullmatch(text) or int(text) > 10_000:
        raise ValueError("write a number of jobs from 0 to 10000")
    return int(text)


def _kubeconfig(environ: Mapping[str, str]) -> Path | None:
    if path := environ.get("KUBECONFIG"):
        return Path(path)
    return None if environ.get(_IN_CLUSTER) else Path.home() / ".kube" / "config"

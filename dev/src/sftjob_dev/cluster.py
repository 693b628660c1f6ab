"""The demo's calls of the API server, the same on the sandbox and on a real cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kubernetes import client, config, utils, watch

from sftjob_contract.names import GROUP, LABEL_JOB, PLURAL, VERSION

_AS_TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
Object = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The output of `kubectl get`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Cluster:
    """One namespace of a kubeconfig's cluster."""

    def __init__(self, kubeconfig: Path, namespace: str = "default") -> None:
        self._client = config.new_client_from_config(str(kubeconfig))
        self._jobs = client.CustomObjectsApi(self._client)
        self._core = client.CoreV1Api(self._client)
        self._namespace = namespace

    def apply(self, manifest: Path) -> None:
        """Apply a manifest like `kubectl apply --server-side -f`."""
        utils.create_from_yaml(self._client, str(manifest), namespace=self._namespace, apply=True)

    def follow(self, job: str, timeout_seconds: int) -> Iterator[Object]:
        """Yield the SFTJob in its current state, and again after each change, until the timeout."""
        stream = watch.Watch().stream(
            self._jobs.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self._namespace,
            PLURAL,
            field_selector=f"metadata.name={job}",
            timeout_seconds=timeout_seconds,
        )
        for event in stream:
            yield event["object"]

    def table(self) -> Table:
        """The SFTJobs with the printer columns of their definition, rendered by the server."""
        answer = self._jobs.list_namespaced_custom_object(
            GROUP, VERSION, self._namespace, PLURAL, _headers={"Accept": _AS_TABLE}
        )
        shown = [i for i, column in enumerate(answer["columnDefinitions"]) if not column["priority"]]
        return Table(
            columns=tuple(answer["columnDefinitions"][i]["name"].upper() for i in shown),
            rows=tuple(tuple(_cell(row["cells"][i]) for i in shown) for row in answer["rows"]),
        )

    def logs(self, job: str, lines: int) -> dict[str, str]:
        """The last log lines of each Pod of a job."""
        pods = self._core.list_namespaced_pod(self._namespace, label_selector=f"{LABEL_JOB}={job}").items
        return {
            pod.metadata.name: self._core.read_namespaced_pod_log(pod.metadata.name, self._namespace, tail_lines=lines)
            for pod in pods
        }


def _cell(value: object) -> str:
    return "" if value is None else str(value)

"""Pods of the trainer's image that do for the tests what takes a place inside the cluster."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from support.trainer import tiny

INSIDE: Final = Path(__file__).with_name("inside")
PROGRAMS: Final = "test-programs"
"""ConfigMap with the programs that they run, in every namespace of the test bed."""
USER: Final = 65532
_PROGRAMS_AT: Final = "/test/programs"
_CLAIMS_AT: Final = "/test/claims"
_TOKENS_AT: Final = "/test/tokens"


def programs() -> dict[str, Any]:
    """The ConfigMap."""
    files = [*INSIDE.glob("*.py"), Path(tiny.__file__)]
    data = {path.name: path.read_text(encoding="utf-8") for path in files}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": PROGRAMS}, "data": data}


def helper_pod(
    name: str,
    image: str,
    program: str,
    *arguments: str,
    claims: Mapping[str, str] | None = None,
    audiences: Mapping[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A Pod that runs one of the programs to its end, within the restricted Pod Security standard.

    `claims` are mounted at the paths in the variables that are their keys; `audiences` are those of the token files
    that are their keys, to be named `$(TOKENS)/KEY`. `options` are env, labels and pod, which has more of the spec.
    """
    mounted = dict(claims or {})
    volumes: list[dict[str, Any]] = [{"name": "programs", "configMap": {"name": PROGRAMS}}]
    volumes += [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in mounted.values()]
    mounts = [{"name": "programs", "mountPath": _PROGRAMS_AT}]
    mounts += [{"name": claim, "mountPath": f"{_CLAIMS_AT}/{claim}"} for claim in mounted.values()]
    if audiences:
        tokens = [{"serviceAccountToken": {"path": path, "audience": name}} for path, name in audiences.items()]
        volumes.append({"name": "tokens", "projected": {"sources": tokens}})
        mounts.append({"name": "tokens", "mountPath": _TOKENS_AT, "readOnly": True})
    variables = {
        "TOKENS": _TOKENS_AT,
        "PYTHONPATH": _PROGRAMS_AT,
        **{variable: f"{_CLAIMS_AT}/{claim}" for variable, claim in mounted.items()},
        **options.get("env", {}),
    }
    container = {
        "name": "helper",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", f"{_PROGRAMS_AT}/{program}", *arguments],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": options.get("labels", {})},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": POD_SECURITY,
            "containers": [container],
            "volumes": volumes,
            **options.get("pod", {}),
        },
    }


POD_SECURITY: Final = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def rows(*texts: str, column: str = "text") -> str:
    """A data set of JSON lines."""
    return "".join(json.dumps({column: text}) + "\n" for text in texts)

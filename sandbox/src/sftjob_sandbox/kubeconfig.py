"""The kubeconfig: what kubectl and every other client need to reach the server."""

import base64
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

import yaml

from sftjob_sandbox.apimachinery.objects import Object

CONTEXT: Final = "sftjob-sandbox"


def kubeconfig(url: str, ca: str, token: str) -> Object:
    """A v1.Config with one cluster, user and context."""
    authority = base64.b64encode(ca.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": url, "certificate-authority-data": authority}}],
        "users": [{"name": CONTEXT, "user": {"token": token}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": "default"}}],
        "current-context": CONTEXT,
    }


def write_private(path: Path, config: Object) -> None:
    """Write a kubeconfig that only its owner can read, all at once, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yaml.safe_dump(config, file, sort_keys=False)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_own(path: Path, config: Object) -> None:
    """Remove a kubeconfig, unless it is no longer this one: another sandbox may have put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if yaml.safe_load(path.read_text(encoding="utf-8")) == config:
            path.unlink()

"""Whether a secret lies where people or programs without a right to it can read it."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from sftjob_dev.stack import Stack
from support.clients.kubectl import Kubectl

_NO_SECRETS = frozenset({"AWS_ENDPOINT_URL", "AWS_EC2_METADATA_DISABLED"})
"""Keys of Secrets whose values are settings."""
_READABLE = "sftjobs,pods,configmaps,persistentvolumeclaims,services,events"
_TOKEN = re.compile(rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.")
"""A ServiceAccount's token."""
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY")


def exposed(stack: Stack, kubectl: Kubectl) -> list[str]:
    """`SECRET in PLACE` for each secret that shows in an object, a log, or a file on a volume."""
    hidden = {name: _forms(value) for name, value in _secrets(kubectl)}
    found = []
    for place, content in _places(stack, kubectl):
        found += [f"{name} in {place}" for name, forms in hidden.items() if any(form in content for form in forms)]
        found += [f"a token in {place}"] if _TOKEN.search(content) else []
        found += [f"a private key in {place}"] if _KEY.search(content) else []
    return found


def places(stack: Stack) -> Iterator[Path]:
    """Every log, and every file on every volume that a job has worked on."""
    yield from (stack.data / "logs").glob("*.log")
    yield from (stack.data / "pods").glob("*/*.log")
    yield from (path for path in (stack.data / "volumes").rglob("*") if path.is_file())


def _places(stack: Stack, kubectl: Kubectl) -> Iterator[tuple[str, bytes]]:
    yield "objects", kubectl("get", _READABLE, "-A", "-o", "yaml").encode()
    for path in places(stack):
        yield str(path.relative_to(stack.data)), path.read_bytes()


def _secrets(kubectl: Kubectl) -> Iterator[tuple[str, str]]:
    for secret in kubectl.json("get", "secrets", "-A")["items"]:
        for key, value in (secret.get("data") or {}).items():
            if key not in _NO_SECRETS:
                yield f"{secret['metadata']['name']}/{key}", base64.b64decode(value).decode()


def _forms(value: str) -> set[bytes]:
    """As it is, in a URL, and in base64."""
    forms = {value, quote(value, safe=""), base64.b64encode(value.encode()).decode()}
    return {form.encode() for form in forms}

"""Where the endpoint's certificate is kept, a directory or a Secret, and how it is served."""

import base64
import binascii
import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from sftjob_operator.progress.certificates import CA_FILE, CERTIFICATE_FILE, FILES, KEY_FILE, Files, renewed

RENEWAL_CHECK_SECONDS: Final = 3600.0
"""How often it is seen whether the certificate was, or has to be, renewed."""


class TlsError(Exception):
    """The certificate can not be read or kept; the text says why and what to do."""


class Secrets(Protocol):
    """The two calls for a Secret. What they raise is not caught here."""

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Read one object."""

    async def replace(self, body: dict[str, Any]) -> dict[str, Any]:
        """Write an object that was read, provided that nobody changed it since."""


@dataclass(frozen=True, kw_only=True)
class TlsMaterial:
    """Certificate and key as PEM, and the CA, or two of them, as PEM text for those who connect."""

    certificate: bytes
    key: bytes
    ca: str


def tls_material(directory: Path, hosts: tuple[str, ...], now: datetime) -> TlsMaterial:
    """Certificate for `hosts` (DNS names or IP addresses) in `directory`: the one there, or a new one.

    A directory without ca.key holds somebody else's certificate (a mounted Secret) and is used as it is.

    Raises:
        TlsError: the directory can not be read or written, or what lies there is unusable.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = {name: (directory / name).read_bytes() for name in FILES if (directory / name).exists()}
        after = renewed(before, hosts, now)
        for name in sorted({*before, *after}):
            if name not in after:
                (directory / name).unlink()
            elif after[name] != before.get(name):
                _write(directory / name, after[name])
        return _material(after)
    except (OSError, ValueError) as error:
        raise TlsError(f"TLS directory {directory}: {error}") from error


async def secret_material(
    secrets: Secrets, namespace: str, name: str, hosts: tuple[str, ...], now: datetime
) -> TlsMaterial:
    """Certificate for `hosts` (DNS names or IP addresses) in a Secret that exists: the one there, or a new one.

    Raises:
        TlsError: what lies there is unusable.
    """
    body = await secrets.get("Secret", namespace, name)
    try:
        data = body.get("data") or {}
        before = {file: base64.b64decode(data[file], validate=True) for file in FILES if file in data}
        after = renewed(before, hosts, now)
        material = _material(after)
    except (ValueError, binascii.Error) as error:
        raise TlsError(f"Secret {namespace}/{name}: {error}; to start anew, remove its data") from error
    if after != before:
        encoded = {file: base64.b64encode(content).decode() for file, content in after.items()}
        await secrets.replace({**body, "data": encoded})
    return material


def server_context(material: TlsMaterial) -> ssl.SSLContext:
    """What the endpoint listens with: TLS 1.2 or newer."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, material)
    return context


def load_certificate(context: ssl.SSLContext, material: TlsMaterial) -> None:
    """Serve new connections with this certificate; open ones stay as they are."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # the library reads files only; this one is ours alone
        file.write(material.key + material.certificate)
        file.flush()
        context.load_cert_chain(file.name)


def _material(files: Files) -> TlsMaterial:
    for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE):
        if not files.get(name):
            raise ValueError(f"{name} is missing: give ca.crt, tls.crt and tls.key, or nothing at all")
    return TlsMaterial(certificate=files[CERTIFICATE_FILE], key=files[KEY_FILE], ca=files[CA_FILE].decode("ascii"))


def _write(path: Path, data: bytes) -> None:
    """Atomically, readable by nobody else."""
    staging = path.with_name(f".{path.name}.new")
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)

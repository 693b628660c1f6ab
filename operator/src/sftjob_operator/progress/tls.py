"""Storage of the endpoint's certificate, in a directory or a Secret, and its TLS context."""

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
"""Interval of checks whether the certificate was, or has to be, renewed."""


class TlsError(Exception):
    """The certificate cannot be read or stored; the text explains why and what to do."""


class Secrets(Protocol):
    """API calls for the Secret. Their errors are not caught here."""

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Read one object."""

    async def replace(self, body: dict[str, Any]) -> dict[str, Any]:
        """Write an object that was read, provided that it has not changed since."""


@dataclass(frozen=True, kw_only=True)
class TlsMaterial:
    """Certificate and key as PEM, and one or two CAs as PEM text for clients."""

    certificate: bytes
    key: bytes
    ca: str


def tls_material(directory: Path, hosts: tuple[str, ...], now: datetime) -> TlsMaterial:
    """Load the certificate for `hosts` (DNS names or IP addresses) from `directory`, or create one there.

    A directory without ca.key contains an external certificate (a mounted Secret), which is used unchanged.

    Raises:
        TlsError: the directory cannot be read or written, or its content is unusable.
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
    """Load the certificate for `hosts` (DNS names or IP addresses) from an existing Secret, or create one in it.

    Raises:
        TlsError: its content is unusable.
    """
    body = await secrets.get("Secret", namespace, name)
    try:
        data = body.get("data") or {}
        before = {file: base64.b64decode(data[file], validate=True) for file in FILES if file in data}
        after = renewed(before, hosts, now)
        material = _material(after)
    except (ValueError, binascii.Error) as error:
        raise TlsError(f"Secret {namespace}/{name}: {error}; to create a new certificate, remove its data") from error
    if after != before:
        encoded = {file: base64.b64encode(content).decode() for file, content in after.items()}
        await secrets.replace({**body, "data": encoded})
    return material


def server_context(material: TlsMaterial) -> ssl.SSLContext:
    """Return the TLS context of the endpoint: TLS 1.2 or newer."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, material)
    return context


def load_certificate(context: ssl.SSLContext, material: TlsMaterial) -> None:
    """Serve new connections with this certificate; open ones keep theirs."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # the library reads only files; this one is private
        file.write(material.key + material.certificate)
        file.flush()
        context.load_cert_chain(file.name)


def _material(files: Files) -> TlsMaterial:
    for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE):
        if not files.get(name):
            raise ValueError(f"{name} is missing: provide ca.crt, tls.crt and tls.key, or none of them")
    return TlsMaterial(certificate=files[CERTIFICATE_FILE], key=files[KEY_FILE], ca=files[CA_FILE].decode("ascii"))


def _write(path: Path, data: bytes) -> None:
    """Write atomically, without access for other users."""
    staging = path.with_name(f".{path.name}.new")
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)

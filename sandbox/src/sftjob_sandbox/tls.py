"""The server's certificate: from a CA that is created at each start, and that only the kubeconfig contains."""

import ssl
from dataclasses import dataclass
from typing import Final

import trustme

_NAMES: Final = ("127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


@dataclass(frozen=True)
class Tls:
    """`context` is the server's side; `ca` (PEM) is what clients verify it with."""

    context: ssl.SSLContext
    ca: str


def make_tls() -> Tls:
    """A new authority and a certificate for this machine."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert(*_NAMES).configure_cert(context)
    return Tls(context, authority.cert_pem.bytes().decode())

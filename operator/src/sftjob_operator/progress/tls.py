"""The endpoint's certificate: made once by a CA of our own, and kept, so that running trainers go on trusting it."""

import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_FILE: Final = "ca.crt"
CA_KEY_FILE: Final = "ca.key"
CERTIFICATE_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"

VALID_FOR: Final = timedelta(days=3650)
RENEW_BEFORE: Final = timedelta(days=365)
"""A certificate with less than this left is made anew at start."""
_CLOCK_SKEW: Final = timedelta(hours=1)


class TlsError(Exception):
    """The TLS directory can not be used; the text says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class TlsMaterial:
    """Where certificate and key lie, and the CA as PEM text for those who connect."""

    certificate: Path
    key: Path
    ca: str


def tls_material(directory: Path, hosts: tuple[str, ...], now: datetime) -> TlsMaterial:
    """Certificate for `hosts` (DNS names or IP addresses) in `directory`: the one there, or a new one.

    A directory without ca.key holds somebody else's certificate (a mounted Secret) and is used as it is. With it, the
    certificate is made anew by the same CA when a host is missing or its time is nearly up.

    Raises:
        TlsError: the directory can not be read or written, or what lies there is unusable.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        present = {name for name in (CA_FILE, CA_KEY_FILE, CERTIFICATE_FILE, KEY_FILE) if (directory / name).exists()}
        if not present:
            _make_authority(directory, now)
            _make_certificate(directory, hosts, now)
        elif CA_KEY_FILE in present and not _still_good(directory, hosts, now):
            _make_certificate(directory, hosts, now)
        return _checked(directory)
    except (OSError, ValueError) as error:
        raise TlsError(f"TLS directory {directory}: {error}") from error


def server_context(material: TlsMaterial) -> ssl.SSLContext:
    """What the endpoint listens with: TLS 1.2 or newer."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(material.certificate, material.key)
    return context


def _checked(directory: Path) -> TlsMaterial:
    for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE):
        if not (directory / name).is_file():
            raise ValueError(f"{name} is missing: mount a Secret with ca.crt, tls.crt and tls.key, or empty it")
    return TlsMaterial(
        certificate=directory / CERTIFICATE_FILE,
        key=directory / KEY_FILE,
        ca=(directory / CA_FILE).read_text(encoding="ascii"),
    )


def _still_good(directory: Path, hosts: tuple[str, ...], now: datetime) -> bool:
    if not (directory / CERTIFICATE_FILE).exists() or not (directory / KEY_FILE).exists():
        return False
    certificate = x509.load_pem_x509_certificate((directory / CERTIFICATE_FILE).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return certificate.not_valid_after_utc - now > RENEW_BEFORE and set(_names(hosts)) <= set(names)


def _make_authority(directory: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sftjob-operator progress CA")])
    public = key.public_key()
    usage = _key_usage(signs_certificates=True)
    certificate = (
        _builder(name, name, public, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(directory / CA_KEY_FILE, _key_pem(key))
    _write(directory / CA_FILE, certificate.public_bytes(serialization.Encoding.PEM))


def _make_certificate(directory: Path, hosts: tuple[str, ...], now: datetime) -> None:
    authority = x509.load_pem_x509_certificate((directory / CA_FILE).read_bytes())
    authority_key = serialization.load_pem_private_key((directory / CA_KEY_FILE).read_bytes(), password=None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise TlsError(f"{directory / CA_KEY_FILE} is not the key that was made here: empty the directory")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sftjob-operator progress")])
    authority_public = authority_key.public_key()
    certificate = (
        _builder(name, authority.subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_public), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(directory / KEY_FILE, _key_pem(key))
    _write(directory / CERTIFICATE_FILE, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + VALID_FOR)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(hosts: tuple[str, ...]) -> list[x509.GeneralName]:
    return [_name(host) for host in dict.fromkeys(hosts)]


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    """Atomically, readable by nobody else."""
    staging = path.with_name(f".{path.name}.new")
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)

"""The endpoint's certificate and the operator's CA that signs it, as file contents by name.

Jobs read `ca.crt` when they start, and trust it until they end. So a CA is never replaced at once: long before it
expires the next CA is created and distributed beside it. The next CA signs only after jobs that do not know it have had
time to end.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_FILE: Final = "ca.crt"
"""One CA, or two: the current signer first, then the next one."""
CA_KEY_FILE: Final = "ca.key"
NEXT_CA_KEY_FILE: Final = "next-ca.key"
CERTIFICATE_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
FILES: Final = (CA_FILE, CA_KEY_FILE, NEXT_CA_KEY_FILE, CERTIFICATE_FILE, KEY_FILE)

CA_VALID_FOR: Final = timedelta(days=3650)
NEXT_CA_BEFORE: Final = timedelta(days=365)
"""Remaining validity at which a CA gets its successor."""
NEXT_CA_DISTRIBUTED_FOR: Final = timedelta(days=180)
"""How long a successor is distributed before it signs. A job that runs longer can no longer report; its training
continues."""
VALID_FOR: Final = timedelta(days=365)
RENEW_BEFORE: Final = timedelta(days=120)
"""Remaining validity at which a certificate is renewed."""
_CLOCK_SKEW: Final = timedelta(hours=1)

Files = Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def renewed(files: Files, hosts: tuple[str, ...], now: datetime) -> dict[str, bytes]:
    """Return the current `files`: new ones if there are none, else with expired parts renewed.

    Files without ca.key are an external certificate and stay unchanged. `hosts` are DNS names or IP addresses.

    Raises:
        ValueError: the files do not contain what their names say, or do not match.
    """
    if files and CA_KEY_FILE not in files:
        return dict(files)
    authorities = _read_authorities(files) if files else [_new_authority(now)]
    signing = authorities[0]
    if len(authorities) == 1 and _remaining(signing.certificate, now) < NEXT_CA_BEFORE:
        authorities.append(_new_authority(now))
    if len(authorities) == 2 and _next_ca_signs(authorities, now):
        signing = authorities.pop()
        authorities = [signing]
    result = {CA_FILE: b"".join(_pem(each.certificate) for each in authorities), CA_KEY_FILE: _key_pem(signing.key)}
    if len(authorities) == 2:
        result[NEXT_CA_KEY_FILE] = _key_pem(authorities[1].key)
    if _is_current(files, signing, hosts, now):
        return {**result, CERTIFICATE_FILE: files[CERTIFICATE_FILE], KEY_FILE: files[KEY_FILE]}
    return result | _new_certificate(signing, hosts, now)


def _read_authorities(files: Files) -> list[_Authority]:
    certificates = x509.load_pem_x509_certificates(files.get(CA_FILE, b""))
    keys = [files[name] for name in (CA_KEY_FILE, NEXT_CA_KEY_FILE) if name in files]
    if len(certificates) != len(keys):
        raise ValueError(f"{CA_FILE} has {len(certificates)} certificates for {len(keys)} keys")
    authorities = []
    for certificate, pem in zip(certificates, keys, strict=True):
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError(f"{CA_FILE} and {CA_KEY_FILE} do not match")
        authorities.append(_Authority(certificate=certificate, key=key))
    return authorities


def _next_ca_signs(authorities: list[_Authority], now: datetime) -> bool:
    signing, next_ca = authorities
    distributed_for = now - next_ca.certificate.not_valid_before_utc - _CLOCK_SKEW
    return distributed_for >= NEXT_CA_DISTRIBUTED_FOR or _remaining(signing.certificate, now) <= RENEW_BEFORE


def _is_current(files: Files, signing: _Authority, hosts: tuple[str, ...], now: datetime) -> bool:
    if CERTIFICATE_FILE not in files or KEY_FILE not in files:
        return False
    certificate = x509.load_pem_x509_certificate(files[CERTIFICATE_FILE])
    key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.key.public_key())
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    fits = issuer == key and set(_names(hosts)) <= set(names)
    return fits and _remaining(certificate, now) > RENEW_BEFORE


def _new_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sftjob-operator progress CA")])
    public = key.public_key()
    certificate = (
        _builder(name, name, public, now)
        .not_valid_after(now + CA_VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Authority(certificate=certificate, key=key)


def _new_certificate(signing: _Authority, hosts: tuple[str, ...], now: datetime) -> dict[str, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sftjob-operator progress")])
    authority_public = signing.key.public_key()
    certificate = (
        _builder(name, signing.certificate.subject, key.public_key(), now)
        .not_valid_after(min(now + VALID_FOR, signing.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_public), critical=False)
        .sign(signing.key, hashes.SHA256())
    )
    return {CERTIFICATE_FILE: _pem(certificate), KEY_FILE: _key_pem(key)}


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


def _remaining(certificate: x509.Certificate, now: datetime) -> timedelta:
    return certificate.not_valid_after_utc - now


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

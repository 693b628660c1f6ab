"""The endpoint's certificate: made once, kept, trusted by whoever has the CA, and private."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sftjob_operator.progress.tls import TlsError, server_context, tls_material

HOSTS = ("operator.sftjob.svc", "127.0.0.1", "::1")
NOW = datetime.now(UTC)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_an_empty_directory_is_filled_and_only_its_owner_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    tls_material(directory, HOSTS, NOW)
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["ca.crt", "ca.key", "tls.crt", "tls.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_certificate_names_every_host_and_is_signed_by_the_ca(tmp_path: Path) -> None:
    material = tls_material(tmp_path, HOSTS, NOW)
    certificate, authority = read(material.certificate), x509.load_pem_x509_certificate(material.ca.encode())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["operator.sftjob.svc"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_a_client_that_verifies_strictly_accepts_it(tmp_path: Path) -> None:
    material = tls_material(tmp_path, HOSTS, NOW)
    client = ssl.create_default_context(cadata=material.ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert handshake(client, server_context(material)) in ("TLSv1.2", "TLSv1.3")


def test_an_old_protocol_is_refused(tmp_path: Path) -> None:
    server = server_context(tls_material(tmp_path, HOSTS, NOW))
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> str | None:
    """Both ends in memory; the protocol that they agree on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=HOSTS[0]),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version()


def test_it_is_the_same_after_a_restart(tmp_path: Path) -> None:
    tls_material(tmp_path, HOSTS, NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tls_material(tmp_path, HOSTS, NOW + timedelta(days=30))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("hosts", "later"),
    [((*HOSTS, "new.example"), timedelta()), (HOSTS, timedelta(days=3300))],
    ids=["another host", "time nearly up"],
)
def test_a_certificate_that_no_longer_fits_is_made_anew_by_the_same_ca(
    tmp_path: Path, hosts: tuple[str, ...], later: timedelta
) -> None:
    before = tls_material(tmp_path, HOSTS, NOW)
    old = before.certificate.read_bytes()
    after = tls_material(tmp_path, hosts, NOW + later)
    assert after.ca == before.ca
    assert after.certificate.read_bytes() != old
    read(after.certificate).verify_directly_issued_by(read(tmp_path / "ca.crt"))


def test_a_mounted_certificate_is_used_as_it_is(tmp_path: Path) -> None:
    tls_material(tmp_path, HOSTS, NOW)
    (tmp_path / "ca.key").unlink()
    before = (tmp_path / "tls.crt").read_bytes()
    material = tls_material(tmp_path, ("elsewhere",), NOW)
    assert material.certificate.read_bytes() == before


@pytest.mark.parametrize(
    ("missing", "damaged", "complaint"),
    [
        (("ca.key", "tls.crt"), None, "tls.crt is missing: mount a Secret with"),
        ((), "ca.key", "TLS directory"),
        ((), "tls.crt", "TLS directory"),
    ],
)
def test_an_unusable_directory_is_told(
    tmp_path: Path, missing: tuple[str, ...], damaged: str | None, complaint: str
) -> None:
    tls_material(tmp_path, HOSTS, NOW)
    for name in missing:
        (tmp_path / name).unlink()
    if damaged:
        (tmp_path / damaged).write_text("rubbish", encoding="ascii")
    with pytest.raises(TlsError, match=complaint):
        tls_material(tmp_path, (*HOSTS, "new.example"), NOW)


def test_a_file_in_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("", encoding="ascii")
    with pytest.raises(TlsError, match="TLS directory"):
        tls_material(tmp_path / "tls", HOSTS, NOW)

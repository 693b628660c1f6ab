"""The certificate and its CA over the years: renewed in time, by a CA that every running job trusts."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from sftjob_operator.progress.certificates import renewed
from sftjob_operator.progress.tls import TlsMaterial, server_context

HOSTS = ("operator.sftjob.svc", "127.0.0.1", "::1")
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def test_there_is_none_at_first_and_then_all_of_it() -> None:
    files = renewed({}, HOSTS, NOW)
    assert sorted(files) == ["ca.crt", "ca.key", "tls.crt", "tls.key"]
    (certificate,), (authority,) = certificates(files["tls.crt"]), certificates(files["ca.crt"])
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["operator.sftjob.svc"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("day", "hosts", "same"),
    [
        (0, HOSTS, ["ca.crt", "ca.key", "tls.crt", "tls.key"]),
        (244, HOSTS, ["ca.crt", "ca.key", "tls.crt", "tls.key"]),
        (246, HOSTS, ["ca.crt", "ca.key"]),
        (0, (*HOSTS, "new.example"), ["ca.crt", "ca.key"]),
        (0, HOSTS[:1], ["ca.crt", "ca.key", "tls.crt", "tls.key"]),
    ],
    ids=["at once", "in time", "nearly up", "another host", "a host less"],
)
def test_what_stays_the_same(day: int, hosts: tuple[str, ...], same: list[str]) -> None:
    before = renewed({}, HOSTS, NOW)
    after = renewed(before, hosts, NOW + day * DAY)
    assert sorted(after) == sorted(before)
    assert sorted(name for name in before if after[name] == before[name]) == same


def test_over_twenty_years_every_certificate_is_trusted_by_jobs_that_began_up_to_180_days_before() -> None:
    files: dict[str, bytes] = {}
    trusted: list[tuple[int, bytes]] = []
    seen = set()
    for day in range(0, 7300, 30):
        files = renewed(files, HOSTS, NOW + day * DAY)
        trusted.append((day, files["ca.crt"]))
        seen.add(files["ca.key"])
        (certificate,) = certificates(files["tls.crt"])
        assert certificate.not_valid_after_utc > NOW + (day + 90) * DAY
        for began, authorities in trusted:
            if day - began < 180:
                issuers = certificates(authorities)
                assert any(issued(certificate, authority) for authority in issuers), f"day {day}, began on {began}"
    assert len(seen) > 2


def issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return identifier.key_identifier == own.digest


def test_the_next_ca_is_told_before_it_signs() -> None:
    first = renewed({}, HOSTS, NOW)
    told = renewed(first, HOSTS, NOW + 3290 * DAY)
    old, new = certificates(told["ca.crt"])
    assert [old] == certificates(first["ca.crt"])
    assert issued(certificates(told["tls.crt"])[0], old)
    signing = renewed(told, HOSTS, NOW + 3471 * DAY)
    assert certificates(signing["ca.crt"]) == [new]
    assert signing["ca.key"] == told["next-ca.key"]
    assert "next-ca.key" not in signing
    assert issued(certificates(signing["tls.crt"])[0], new)


def test_an_operator_that_was_off_for_too_long_starts_with_a_new_ca() -> None:
    files = renewed(renewed({}, HOSTS, NOW), HOSTS, NOW + 4000 * DAY)
    (certificate,), (authority,) = certificates(files["tls.crt"]), certificates(files["ca.crt"])
    assert issued(certificate, authority)
    assert certificate.not_valid_after_utc > NOW + 4300 * DAY


@pytest.mark.parametrize("day", [0, 3290], ids=["one CA", "two"])
def test_a_client_that_verifies_strictly_accepts_it(day: int) -> None:
    files = renewed(renewed({}, HOSTS, NOW - day * DAY), HOSTS, NOW)
    client = ssl.create_default_context(cadata=files["ca.crt"].decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    material = TlsMaterial(certificate=files["tls.crt"], key=files["tls.key"], ca=files["ca.crt"].decode())
    assert handshake(client, server_context(material)) in ("TLSv1.2", "TLSv1.3")


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


def test_the_certificate_of_somebody_else_stays_as_it_is() -> None:
    files = renewed({}, HOSTS, NOW)
    given = {name: files[name] for name in ("ca.crt", "tls.crt", "tls.key")}
    assert renewed(given, ("elsewhere",), NOW + 9999 * DAY) == given


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ca.crt": b"rubbish"}, "Unable to load PEM file"),
        ({"ca.key": b"rubbish"}, "Could not deserialize key data|Unable to load PEM file"),
        ({"tls.crt": b"rubbish"}, "Unable to load PEM file"),
        ({"ca.key": renewed({}, HOSTS, NOW)["ca.key"]}, r"ca\.crt and ca\.key do not match"),
        ({"next-ca.key": renewed({}, HOSTS, NOW)["ca.key"]}, r"ca\.crt has 1 certificates for 2 keys"),
    ],
    ids=["no CA", "no key", "no certificate", "the key of another", "a key too many"],
)
def test_what_can_not_be_used_is_told(change: dict[str, bytes], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        renewed({**renewed({}, HOSTS, NOW), **change}, HOSTS, NOW)

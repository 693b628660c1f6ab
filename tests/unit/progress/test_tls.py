"""Where the endpoint's certificate is kept: made once, the same after a restart, and private."""

import asyncio
import base64
import ssl
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import sftjob_operator.__main__ as program
from sftjob_operator.__main__ import keep_certificate
from sftjob_operator.effects.cluster import ConflictError
from sftjob_operator.progress.tls import TlsError, TlsMaterial, secret_material, server_context, tls_material
from support.fakes.fake_cluster import RENDER, SETTINGS, World
from support.jobs.builders import a_job

HOSTS = ("operator.sftjob.svc", "127.0.0.1", "::1")
NOW = datetime.now(UTC)
FILES = ["ca.crt", "ca.key", "tls.crt", "tls.key"]


def read(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_an_empty_directory_is_filled_and_only_its_owner_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    tls_material(directory, HOSTS, NOW)
    assert sorted(path.name for path in directory.iterdir()) == FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_is_the_same_after_a_restart(tmp_path: Path) -> None:
    tls_material(tmp_path, HOSTS, NOW)
    before = read(tmp_path)
    tls_material(tmp_path, HOSTS, NOW + timedelta(days=30))
    assert read(tmp_path) == before


def test_what_is_renewed_replaces_the_old_files_and_removes_what_is_not_needed(tmp_path: Path) -> None:
    tls_material(tmp_path, HOSTS, NOW)
    tls_material(tmp_path, HOSTS, NOW + timedelta(days=3290))
    assert sorted(read(tmp_path)) == sorted([*FILES, "next-ca.key"])
    material = tls_material(tmp_path, HOSTS, NOW + timedelta(days=3480))
    assert sorted(read(tmp_path)) == FILES
    assert material.ca.encode() == (tmp_path / "ca.crt").read_bytes()


def test_a_mounted_certificate_is_used_as_it_is(tmp_path: Path) -> None:
    tls_material(tmp_path, HOSTS, NOW)
    (tmp_path / "ca.key").unlink()
    before = read(tmp_path)
    material = tls_material(tmp_path, ("elsewhere",), NOW)
    assert material.certificate == before["tls.crt"]
    assert read(tmp_path) == before


@pytest.mark.parametrize(
    ("missing", "damaged", "complaint"),
    [
        (("ca.key", "tls.crt"), None, "tls.crt is missing: provide ca.crt, tls.crt and tls.key"),
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


class OneSecret:
    """The calls for a Secret, and how often it was written."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {"kind": "Secret", "metadata": {"name": "tls", "resourceVersion": "7"}}
        self.writes = 0

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        assert (kind, namespace, name) == ("Secret", "system", "tls")
        return self.body

    async def replace(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["metadata"] != self.body["metadata"]:
            raise ConflictError("the object has been modified")
        self.writes += 1
        self.body = body
        return body


async def test_an_empty_secret_is_filled_once_and_then_read() -> None:
    secret = OneSecret()
    first = await secret_material(secret, "system", "tls", HOSTS, NOW)
    again = await secret_material(secret, "system", "tls", HOSTS, NOW + timedelta(days=30))
    assert again == first
    assert secret.writes == 1
    assert sorted(secret.body["data"]) == FILES
    assert base64.b64decode(secret.body["data"]["ca.crt"]).decode() == first.ca


async def test_a_secret_is_renewed_with_its_own_ca() -> None:
    secret = OneSecret()
    first = await secret_material(secret, "system", "tls", HOSTS, NOW)
    later = await secret_material(secret, "system", "tls", HOSTS, NOW + timedelta(days=300))
    assert secret.writes == 2
    assert later.ca == first.ca
    assert later.certificate != first.certificate


@pytest.mark.parametrize("data", [{"ca.key": "!"}, {"ca.crt": "eA=="}, {"ca.key": "eA==", "ca.crt": "eA=="}])
async def test_an_unusable_secret_is_told_and_left_alone(data: dict[str, str]) -> None:
    secret = OneSecret()
    secret.body["data"] = data
    with pytest.raises(TlsError, match=r"Secret system/tls: .*; to create a new certificate, remove its data"):
        await secret_material(secret, "system", "tls", HOSTS, NOW)
    assert secret.writes == 0


def test_an_old_protocol_is_refused(tmp_path: Path) -> None:
    server = server_context(tls_material(tmp_path, HOSTS, NOW))
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_running_operator_serves_and_tells_what_was_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = await secret_material(OneSecret(), "system", "tls", HOSTS, NOW)
    second = await secret_material(OneSecret(), "system", "tls", HOSTS, NOW)
    answers = iter([first, TlsError("not now"), second, second])
    context, told = server_context(first), []
    monkeypatch.setattr(program, "RENEWAL_CHECK_SECONDS", 0)

    async def material() -> TlsMaterial:
        answer = next(answers, None)
        if answer is None:
            raise asyncio.CancelledError
        if isinstance(answer, TlsError):
            raise answer
        return answer

    with pytest.raises(asyncio.CancelledError):
        await keep_certificate(material, first, context, told.append)
    assert told == [second.ca]
    assert await served(context) == ssl.PEM_cert_to_DER_cert(second.certificate.decode())


async def test_jobs_that_begin_after_a_renewal_are_told_the_new_ca() -> None:
    world = World()
    await world.apply(a_job("early"))
    world.controller.use(replace(SETTINGS, render=replace(RENDER, progress_ca="NEW")))
    await world.apply(a_job("late"))
    maps = {name: obj for (kind, _, name), obj in world.cluster.objects.items() if kind == "ConfigMap"}
    assert {name: obj["data"]["ca.crt"] for name, obj in maps.items()} == {"early-config": "CA", "late-config": "NEW"}


async def served(context: ssl.SSLContext) -> bytes | None:
    """The certificate that a server with this context shows."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    client = ssl.create_default_context()
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2], ssl=client)
        shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    return shown

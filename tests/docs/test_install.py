"""tools/install.py: PyTorch's CPU build where its index answers in time, uv where it knows the packages, else pip."""

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools import install

CPU = ("--no-deps", "--index-url", install.CPU_INDEX, install.torch_requirement())
DEFAULT = (install.torch_requirement(),)


def program(path: Path, *, code: int = 0, refuses: str = "", prints: str = "") -> Path:
    """A program that records its arguments beside itself; ends with `code`, or 1 if `refuses` is an argument."""
    path.parent.mkdir(exist_ok=True)
    lines = [
        "#!/bin/sh",
        f'echo "$@" >> {path}.calls',
        f"printf '%s' '{prints}'",
        f'case " $* " in *" {refuses} "*) exit 1;; esac' if refuses else "",
        f"exit {code}",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    path.chmod(0o755)
    return path


def calls(path: Path) -> list[tuple[str, ...]]:
    """What was installed by `program`, without the arguments that each call has."""
    record = Path(f"{path}.calls")
    found = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    constraints = ("--quiet", "--constraint", str(install.REQUIREMENTS / "constraints.txt"))
    return [tuple(word for word in line.split() if word not in constraints) for line in found]


@contextmanager
def index(status: int) -> Iterator[str]:
    """A package index that answers with `status`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (403, False), (404, False)])
def test_an_index_is_reachable_if_it_has_pytorch(status: int, reachable: bool) -> None:
    with index(status) as url:
        assert install.is_reachable(url) is reachable


def test_a_silent_index_is_unreachable_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not install.is_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_an_index_without_an_address_is_unreachable() -> None:
    assert not install.is_reachable("http://packages.invalid")


@pytest.mark.parametrize(
    ("reachable", "refuses", "expected"),
    [
        (True, "", [CPU]),
        (False, "", [DEFAULT]),
        (True, install.CPU_INDEX, [CPU, DEFAULT]),
    ],
)
def test_the_cpu_build_is_preferred_and_the_default_index_is_the_fallback(
    reachable: bool, refuses: str, expected: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "is_reachable", lambda _: reachable)
    pip = program(tmp_path / "pip", refuses=refuses)
    assert install.install_torch([[str(pip)]])
    assert calls(pip) == expected


def test_a_failure_of_every_installer_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "is_reachable", lambda _: False)
    assert not install.install_torch(
        [[str(program(tmp_path / "uv", code=2))], [str(program(tmp_path / "pip", code=1))]]
    )


def test_pip_installs_what_uv_cannot(tmp_path: Path) -> None:
    uv, pip = program(tmp_path / "uv", code=2), program(tmp_path / "pip")
    assert install.install([[str(uv)], [str(pip)]], "kopf")
    assert calls(uv) == calls(pip) == [("kopf",)]


@pytest.mark.parametrize(
    ("settings", "uses_uv"),
    [
        ("global.timeout=60", True),
        ("global.index-url=https://mirror.example/simple", False),
        ("global.extra-index-url=https://mirror.example/simple", False),
        (":env:.find-links=/wheels", False),
    ],
)
def test_uv_is_used_unless_pip_has_sources_that_uv_does_not_read(
    settings: str, uses_uv: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = program(tmp_path / "bin/uv")
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    python = program(tmp_path / "python", prints=settings)
    commands = install.installers(python)
    assert [command[0] for command in commands] == ([str(uv)] if uses_uv else []) + [str(python)]
    assert commands[-1][1:4] == ["-m", "pip", "install"]


def test_without_uv_pip_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [command[0] for command in install.installers(program(tmp_path / "python"))] == [str(tmp_path / "python")]

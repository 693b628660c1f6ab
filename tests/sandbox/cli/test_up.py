"""`python -m sftjob_sandbox up`."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from sftjob_sandbox.__main__ import main
from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import RUNS_ONCE, WIDGETS_FILE
from support.clients.kubectl import Kubectl


@contextmanager
def _up(data: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """The sandbox as a process of its own, once it has said that it is up."""
    command = [sys.executable, "-m", "sftjob_sandbox", "up", "--data", str(data), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _greeting(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("Ctrl-C"):
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        lines.append(line)
    return "".join(lines)


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "one"},
    "spec": {
        **RUNS_ONCE,
        "containers": [{"name": "main", "image": "tools:1", "command": ["sh", "-c", "sleep 600 & wait"]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    },
}
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


def test_it_is_up_when_its_kubeconfig_is_there_and_leaves_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    kubectl = Kubectl(data / "kubeconfig", tmp_path / "cache")
    with _up(data, "--image", "tools:1=/bin", "--crd", str(WIDGETS_FILE), "--gpus", "2") as process:
        greeting = _greeting(process)
        config = yaml.safe_load((data / "kubeconfig").read_text())
        kubectl("apply", "-f", "-", text=yaml.safe_dump_all([CLAIM, POD]))
        kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=20s")
        running = psutil.Process(process.pid).children(recursive=True)

        assert "emulator" in greeting
        assert config["clusters"][0]["cluster"]["server"] in greeting
        assert config["users"][0]["user"]["token"] not in greeting
        assert stat.S_IMODE((data / "kubeconfig").stat().st_mode) == 0o600
        assert config["clusters"][0]["cluster"]["server"].startswith("https://127.0.0.1:")
        assert kubectl("get", "widgets", "-o", "name") == ""
        assert kubectl("get", "nodes", "-o", r"jsonpath={.items[0].status.capacity.nvidia\.com/gpu}") == "2"
        assert len(running) > 1

        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0

    assert not any(child.is_running() for child in running)
    assert not (data / "kubeconfig").exists()
    assert (data / "volumes/default/data").is_dir()


def test_a_stale_kubeconfig_and_volumes_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("stale")
    (tmp_path / "volumes/default/data").mkdir(parents=True)

    with _up(tmp_path) as process:
        assert "found again by a claim of its name: default/data" in _greeting(process)
        assert (tmp_path / "kubeconfig").read_text() != "stale"
    with _up(tmp_path, "--fresh") as process:
        assert "found again" not in _greeting(process)
        assert not (tmp_path / "volumes").exists()


async def test_a_sandbox_that_stops_leaves_the_kubeconfig_of_the_next(tmp_path: Path) -> None:
    first, second = (Sandbox(data=tmp_path, with_node=False) for _ in range(2))

    async with first:
        await second.__aenter__()
    assert yaml.safe_load((tmp_path / "kubeconfig").read_text())["users"][0]["user"]["token"] == second.token
    await second.__aexit__(None, None, None)

    assert not (tmp_path / "kubeconfig").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--image", "tools:1"], "'tools:1' must be REF=BINDIR, such as trainer:dev=/usr/bin"),
        (["--image", "tools:1=/no/such"], "'/no/such' of 'tools:1=/no/such' is not a directory"),
    ],
)
def test_a_bad_image_is_refused_with_a_sentence(
    capsys: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    with pytest.raises(SystemExit):
        main(["up", *options])

    assert text in capsys.readouterr().err


def test_a_bad_definition_is_refused_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    definition = yaml.safe_load(WIDGETS_FILE.read_text())
    definition["metadata"]["name"] = "gadgets.example.dev"
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(definition))

    assert main(["up", "--data", str(tmp_path), "--crd", str(tmp_path / "bad.yaml")]) == 1

    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/bad.yaml: CustomResourceDefinition")
    assert "gadgets.example.dev" in error


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _up(tmp_path / "one") as process:
        _greeting(process)
        server = yaml.safe_load((tmp_path / "one/kubeconfig").read_text())["clusters"][0]["cluster"]["server"]

        assert main(["up", "--data", str(tmp_path / "two"), "--port", server.rsplit(":", 1)[1]]) == 1

    assert "address already in use" in capsys.readouterr().err
    assert not os.path.lexists(tmp_path / "two/kubeconfig")

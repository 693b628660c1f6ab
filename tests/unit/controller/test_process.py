"""The process around the controller: command line, log lines, credentials for kopf."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sftjob_operator.__main__ import main
from sftjob_operator.effects.kube import Credentials
from sftjob_operator.handlers import connection
from sftjob_operator.runtime.logs import JsonFormatter


def test_the_version_is_told() -> None:
    command = [sys.executable, "-m", "sftjob_operator", "--version"]
    done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"SFTJOB_TRAINER_IMAGE": ""}, "SFTJOB_TRAINER_IMAGE is not set"),
        ({"KUBECONFIG": "/nowhere/config"}, "kubeconfig /nowhere/config cannot be used"),
        ({"SFTJOB_PROGRESS_TLS_DIR": "/dev/null"}, "TLS directory /dev/null"),
        ({"SFTJOB_PROGRESS_ADDRESS": "192.0.2.1:1"}, "Cannot assign requested address"),
    ],
)
def test_an_operator_that_can_not_start_says_why(
    environ: dict[str, str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = {
        "SFTJOB_TRAINER_IMAGE": "t:1",
        "SFTJOB_PROGRESS_TLS_DIR": str(tmp_path / "tls"),
        "SFTJOB_PROGRESS_ADDRESS": "127.0.0.1:0",
        "KUBECONFIG": str(kubeconfig(tmp_path)),
    }
    for name, value in (good | environ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["sftjob_operator"])
    monkeypatch.setattr("sftjob_operator.__main__.configure_logging", lambda: None)
    assert main() == 2
    assert complaint in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.CRITICAL


def kubeconfig(directory: Path) -> Path:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    }
    path = directory / "kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def test_a_log_line_about_a_job_is_an_object_with_its_key_attempt_and_pod() -> None:
    record = logging.LogRecord("sftjob_operator.x", logging.INFO, __file__, 1, 'phase "%s"', ("Running",), None)
    record.job = "team/demo"
    line = json.loads(JsonFormatter({"team/demo": (2, "demo-train-2")}.get).format(record))
    assert line.pop("time").startswith("20")
    assert line == {
        "level": "info",
        "logger": "sftjob_operator.x",
        "job": "team/demo",
        "attempt": 2,
        "pod": "demo-train-2",
        "msg": 'phase "Running"',
    }


def test_a_line_about_no_job_or_about_one_without_a_pod_tells_what_is_known() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "started", (), None)
    assert set(json.loads(JsonFormatter().format(record))) == {"time", "level", "logger", "msg"}
    record.job = "team/demo"
    assert json.loads(JsonFormatter().format(record))["job"] == "team/demo"


def test_a_traceback_is_in_its_line() -> None:
    error = KeyError("gone")
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "fault", (), (KeyError, error, None))
    assert json.loads(JsonFormatter().format(record))["traceback"] == "KeyError: 'gone'"


@pytest.mark.parametrize(
    ("authorization", "scheme", "token"),
    [("Bearer abc", "Bearer", "abc"), ("Basic dTpw", "Basic", "dTpw"), (None, None, None)],
)
def test_kopf_gets_the_credentials_that_the_cluster_has(
    authorization: str | None, scheme: str | None, token: str | None
) -> None:
    credentials = Credentials(
        server="https://127.0.0.1:6443",
        authorization=authorization,
        ca_path="/ca",
        certificate_path=None,
        key_path=None,
        verify=True,
        proxy=None,
    )
    given = connection(credentials)
    assert (given.server, given.scheme, given.token) == ("https://127.0.0.1:6443", scheme, token)
    assert (given.ca_path, given.insecure) == ("/ca", False)

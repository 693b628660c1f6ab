"""`make sandbox OPERATOR=no` and `make operator`."""

import subprocess
import sys
from pathlib import Path

import pytest

from sftjob_dev.__main__ import run_operator, write_settings
from sftjob_dev.cluster import Cluster
from sftjob_dev.stack import Stack, StackError, is_alive
from support.clients.wait import wait_until

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
PROGRAM = "import sys, pathlib, sftjob_dev.__main__ as main; main.run_operator(pathlib.Path(sys.argv[1]))"


def test_an_operator_without_a_sandbox_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no sandbox is running: start `make sandbox OPERATOR=no`"):
        run_operator(tmp_path)


@pytest.mark.slow
def test_an_operator_can_be_replaced_while_the_sandbox_keeps_running(tmp_path: Path) -> None:
    with Stack(tmp_path, operator=False) as stack:
        write_settings(stack)
        with pytest.raises(StackError, match="the operator is not running"):
            _ = stack.operator_pid
        for number in range(2):
            with subprocess.Popen([sys.executable, "-c", PROGRAM, str(stack.data)]) as operator:
                wait_until(lambda: is_alive(stack.operator_settings()), "the operator does not answer")
                with pytest.raises(StackError, match="already has an operator"):
                    run_operator(stack.data)
                name = f"job-{number}"
                manifest = tmp_path / "sftjob.yaml"
                text = (QUICKSTART / "sftjob.yaml").read_text(encoding="utf-8")
                manifest.write_text(text.replace("name: quickstart\n", f"name: {name}\n"), encoding="utf-8")
                Cluster(stack.kubeconfig).apply(manifest)
                seen = Cluster(stack.kubeconfig).follow(name, timeout_seconds=30)
                assert next(job for job in seen if job.get("status", {}).get("phase"))
                operator.terminate()

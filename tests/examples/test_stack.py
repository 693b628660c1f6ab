import os
import sys
from pathlib import Path

import psutil
import pytest

from examples.quickstart.demo import finished
from sftjob_dev.cluster import Cluster
from sftjob_dev.stack import Stack, StackError, free_port, log_end

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.mark.slow
def test_the_stack_runs_a_job_survives_its_operators_death_and_leaves_no_process(tmp_path: Path) -> None:
    before = children()
    with Stack(tmp_path) as stack:
        cluster = Cluster(stack.kubeconfig)
        for manifest in ("data.yaml", "sftjob.yaml"):
            cluster.apply(QUICKSTART / manifest)
        first = stack.operator_pid
        stack.kill_operator()
        stack.check()
        stack.start_operator()
        assert stack.operator_pid != first
        cluster.apply(QUICKSTART / "sftjob.yaml")
        job = next(job for job in cluster.follow("quickstart", timeout_seconds=60) if finished(job))
        assert [attempt["reason"] for attempt in job["status"]["attempts"]] == ["ModelNotFound"]
        assert cluster.table().columns[:2] == ("NAME", "PHASE")
        assert cluster.table().rows[0][:2] == ("quickstart", "Failed")
        assert "pvc://quickstart-data/model" in cluster.logs("quickstart", lines=5)["quickstart-prepare-1"]
    assert children() == before
    assert not stack.kubeconfig.exists()


@pytest.mark.slow
def test_a_stack_whose_sandbox_dies_says_so(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        assert stack._sandbox is not None
        stack._sandbox.kill()
        stack._sandbox.wait()
        with pytest.raises(StackError, match="the sandbox ended with exit code -9"):
            stack.check()


def test_a_process_that_does_not_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    class Broken(Stack):
        def sandbox_command(self) -> list[str]:
            return [sys.executable, "-c", "raise SystemExit('no room')"]

    with (
        pytest.raises(StackError, match="the sandbox ended with exit code 1; its log ends with:\nno room"),
        Broken(tmp_path),
    ):
        pass


def test_there_is_no_pid_of_an_operator_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="not running"):
        _ = Stack(tmp_path).operator_pid


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "operator.log"
    assert log_end(log) == "(no log)"
    log.write_text("".join(f"line {number}\n" for number in range(30)))
    assert log_end(log, lines=2) == "line 28\nline 29"


def test_a_free_port_can_be_listened_on() -> None:
    assert 1024 < free_port() < 65536


def test_where_a_claim_lies(tmp_path: Path) -> None:
    assert Stack(tmp_path).volume("data") == tmp_path.resolve() / "volumes" / "default" / "data"
    assert os.fspath(Stack(tmp_path).volume("data", "team")).endswith("volumes/team/data")


def test_a_second_stack_in_the_same_directory_is_refused_and_leaves_the_first_alone(tmp_path: Path) -> None:
    with Stack(tmp_path) as first:
        kept = first.volume("claim") / "checkpoint"
        kept.parent.mkdir(parents=True)
        kept.write_text("weights")
        with pytest.raises(StackError, match=r"another stack .* runs in .*: stop it first"), Stack(tmp_path):
            pass
        first.check()
        assert kept.read_text() == "weights"

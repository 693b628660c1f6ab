"""One run that is disrupted in every way, one after another: it resumes each time, and its losses do not show it."""

import json
from collections.abc import Iterator

import pytest
import yaml

from sftjob_contract.names import LABEL_JOB
from support.any_cluster.bed import Bed
from support.any_cluster.helper_pods import helper_pod
from support.any_cluster.server import LONG_SECONDS
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import Status, beyond, condition, phase

NAME = "bumpy"
UNDISTURBED = "steady"
SAVE_STEPS = 25
MORE_STEPS = 10
ENDLESS = 1_000_000


def a_run(bed: Bed, name: str, steps: int) -> JobBuilder:
    """A run whose learning rate does not depend on how many steps it has."""
    job = bed.a_job(name).training(max_steps=steps, scheduler="constant", warmup_ratio=0)
    return job.checkpoints(every_steps=SAVE_STEPS, keep=2).failure_policy(backoff_seconds=1)


@pytest.fixture(scope="module")
def run(bed: Bed) -> Iterator[str]:
    """Name of the run, which has begun."""
    bed.apply(a_run(bed, NAME, ENDLESS))
    bed.reach(NAME, lambda status: len(status.get("checkpoints", ())) > 0)
    yield NAME
    bed.delete(NAME, UNDISTURBED)


def on_its_way(bed: Bed) -> Status:
    """A status of the run in which its last attempt has done some steps and saved."""
    start = bed.reach(NAME, lambda status: "fromStep" in status["attempts"][-1])["attempts"][-1]["fromStep"]
    return bed.reach(NAME, beyond(start + SAVE_STEPS + MORE_STEPS))


def next_attempt(bed: Bed, before: Status) -> tuple[Status, Status]:
    """The attempt that was the last in `before`, and the one after it, which has begun to train."""
    number = len(before["attempts"])
    after = bed.reach(NAME, lambda s: len(s["attempts"]) > number and "fromStep" in s["attempts"][-1])["attempts"]
    assert len(after) == number + 1, after
    return after[-2], after[-1]


def pod(status: Status) -> str:
    return str(status["attempts"][-1]["pod"])


def saved_before_it_ended(ended: Status, following: Status) -> bool:
    """Whether no step was lost."""
    return bool(following["fromStep"] == ended["reachedStep"] and ended.get("lostSteps") == 0)


def test_a_trainer_killed_by_sigkill_resumes_from_its_newest_checkpoint(run: str, bed: Bed) -> None:
    killer = helper_pod("may-see-processes", bed.image, "kill.py", pod={"hostPID": True})
    allowed = bed.kubectl(bed.open).run("create", "--dry-run=server", "-f", "-", text=yaml.safe_dump(killer))
    if allowed.returncode != 0:
        pytest.skip(f"the cluster admits no Pod with hostPID: {allowed.stderr.strip()}")
    before = on_its_way(bed)
    killed = bed.run("killer", "kill.py", namespace=bed.open, env={"POD": pod(before)}, pod={"hostPID": True})
    assert killed.split(), "the trainer's process is not visible on its node"
    ended, following = next_attempt(bed, before)
    assert (ended["reason"], ended["exitCode"]) == ("Killed", 137)
    assert 0 < following["fromStep"] == ended["reachedStep"] - ended["lostSteps"]


def test_a_pod_deleted_by_force_is_followed_by_another(run: str, bed: Bed) -> None:
    before = on_its_way(bed)
    bed.kubectl()("delete", "pod", pod(before), "--force", "--grace-period=0", "--wait=false")
    ended, following = next_attempt(bed, before)
    assert ended["reason"] == "PodLost"
    assert following["fromStep"] > 0


def test_a_deleted_pod_saves_first(run: str, bed: Bed) -> None:
    before = on_its_way(bed)
    bed.kubectl()("delete", "pod", pod(before), "--wait=false")
    ended, following = next_attempt(bed, before)
    assert (ended["reason"], ended["exitCode"]) == ("Interrupted", 75)
    assert saved_before_it_ended(ended, following)


def test_an_evicted_pod_saves_first(run: str, bed: Bed) -> None:
    bed.server.require("pods/eviction")
    before = on_its_way(bed)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod(before)}}
    path = f"/api/v1/namespaces/{bed.namespace}/pods/{pod(before)}/eviction"
    bed.kubectl()("create", "--raw", path, "-f", "-", text=json.dumps({**eviction}))
    ended, following = next_attempt(bed, before)
    assert ended["reason"] == "Evicted"
    assert saved_before_it_ended(ended, following)


def test_a_run_on_a_drained_node_waits_for_its_node_and_goes_on(run: str, bed: Bed) -> None:
    """Only this job's Pods are asked to leave. The job's node selector and its volume keep it from other nodes."""
    bed.server.require("pods/eviction")
    before = on_its_way(bed)
    node = before["attempts"][-1]["node"]
    if bed.kubectl().json("get", "node", node)["spec"].get("unschedulable"):
        pytest.skip(f"node {node} was cordoned before")
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={int(LONG_SECONDS)}s")
    try:
        bed.kubectl()("drain", node, f"--pod-selector={LABEL_JOB}={NAME}", *options, timeout=LONG_SECONDS + 10)
        bed.reach(NAME, lambda status: condition(status, "Running")["reason"] == "Unschedulable")
    finally:
        bed.kubectl()("uncordon", node)
    ended, following = next_attempt(bed, before)
    assert ended["reason"] == "Evicted"
    assert saved_before_it_ended(ended, following)


def test_a_run_does_not_notice_that_the_operator_is_replaced(run: str, bed: Bed) -> None:
    before = on_its_way(bed)
    bed.release.restart()
    after = bed.reach(NAME, beyond(before["progress"]["step"] + MORE_STEPS))
    assert (after["phase"], pod(after)) == ("Running", pod(before))


def test_a_run_does_not_notice_that_the_release_is_upgraded_and_rolled_back(run: str, bed: Bed) -> None:
    before = on_its_way(bed)
    bed.release.upgrade(workers=4)
    between = bed.reach(NAME, beyond(before["progress"]["step"] + MORE_STEPS))
    bed.release.rollback()
    after = bed.reach(NAME, beyond(between["progress"]["step"] + MORE_STEPS))
    assert (after["phase"], pod(after)) == ("Running", pod(before))


def suspend(bed: Bed, *, suspended: bool) -> None:
    bed.kubectl()("patch", "sft", NAME, "--type=merge", "-p", json.dumps({"spec": {"suspend": suspended}}))


def test_a_suspended_run_saves_frees_its_pod_and_goes_on_where_it_was(run: str, bed: Bed) -> None:
    before = on_its_way(bed)
    suspend(bed, suspended=True)
    rests = bed.reach(NAME, phase("Suspended"))
    seconds = int(LONG_SECONDS)
    bed.kubectl()("wait", f"pod/{pod(before)}", "--for=delete", f"--timeout={seconds}s", timeout=seconds + 10)
    assert (rests["attempts"][-1]["reason"], rests["attempts"][-1]["exitCode"]) == ("Suspended", 75)
    suspend(bed, suspended=False)
    ended, following = next_attempt(bed, rests)
    assert saved_before_it_ended(ended, following)


def test_its_losses_are_those_of_a_run_that_nothing_happened_to(run: str, bed: Bed) -> None:
    on_its_way(bed)
    suspend(bed, suspended=True)
    step = bed.reach(NAME, phase("Suspended"))["progress"]["step"]
    bed.apply(a_run(bed, UNDISTURBED, step))
    assert bed.end(UNDISTURBED)["phase"] == "Succeeded"
    found = json.loads(bed.run("reader", "losses.py", claims={"FIRST": NAME, "SECOND": UNDISTURBED}))
    assert found == {"first": step, "second": step, "missing": [], "different": []}

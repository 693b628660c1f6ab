"""Jobs that cannot start and say why, and ends that the spec asks for. All of them run at the same time."""

import json
from collections.abc import Callable

import pytest

from sftjob_contract.reasons import Reason
from support.any_cluster.bed import Bed
from support.any_cluster.server import wait_until
from support.jobs.small_jobs import Status, condition, phase

NO_IMAGE = "registry.invalid/no-such-image:1"
STAY = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(3600)"
ONE_ATTEMPT_STAYS = f"import os; os.environ['SFTJOB_ATTEMPT'] == '2' and os._exit(0); {STAY}"
GREEDY = "import time; taken = b'x' * (1 << 30); time.sleep(3600)"
ONLY_LESS_HELPS = "Request less in spec.resources"


@pytest.fixture(scope="module", autouse=True)
def jobs(bed: Bed) -> None:
    """All jobs."""
    bed.apply(bed.a_command("no-image", "").set("image", NO_IMAGE))
    bed.apply(bed.a_command("no-program", "").set("command", ["no-such-program", "--option"]))
    bed.apply(bed.a_job("no-claim").model("pvc://no-such-claim/model"))
    bed.apply(bed.a_command("brief", "print('done')").set("ttlSecondsAfterFinished", 1))
    bed.apply(bed.a_command("late", STAY).set("deadlineSeconds", 36_000))
    bed.apply(bed.a_command("patient", "print('done')").set("suspend", value=True))
    bed.apply(bed.a_command("greedy", GREEDY).failure_policy(max_retries=0))
    bed.apply(bed.a_command("stripped", ONE_ATTEMPT_STAYS))
    for namespace in (bed.namespace, bed.second):
        bed.apply(bed.a_command("twin", f"print('this is {namespace}')", namespace=namespace))


def says(word: str) -> Callable[[Status], bool]:
    """A condition: one of the messages has the word."""
    return lambda status: any(word in entry.get("message", "") for entry in status.get("conditions", ()))


def messages(status: Status) -> str:
    return "\n".join(entry.get("message", "") for entry in status["conditions"])


def test_an_image_that_does_not_exist_is_named_and_waited_for(bed: Bed) -> None:
    status = bed.reach("no-image", lambda s: says(NO_IMAGE)(s) and Reason.IMAGE_PULL_FAILED in reasons(s))
    assert status["phase"] not in ("Failed", "Succeeded")


def reasons(status: Status) -> set[str]:
    return {entry["reason"] for entry in status["conditions"]}


def test_a_command_that_is_not_in_the_image_fails_at_once_and_is_named(bed: Bed) -> None:
    status = bed.end("no-program")
    told = condition(status, "Succeeded")
    assert (status["phase"], told["reason"]) == ("Failed", Reason.CONFIG_INVALID)
    assert "no-such-program" in told["message"]
    assert len(status["attempts"]) == 1


def test_a_claim_that_does_not_exist_is_named_and_no_smaller_request_advised(bed: Bed) -> None:
    status = bed.reach("no-claim", says("no-such-claim"))
    assert ONLY_LESS_HELPS not in messages(status)


def test_a_storage_class_that_does_not_exist_is_named(bed: Bed) -> None:
    bed.server.require_storage_classes()
    bed.apply(bed.a_command("no-class", "").storage(storage_class_name="no-such-class"))
    status = bed.reach("no-class", says("no-such-class"))
    assert ONLY_LESS_HELPS not in messages(status)


def test_a_finished_job_is_cleaned_up_after_its_time_to_live(bed: Bed) -> None:
    status = bed.reach("brief", lambda status: "cleanupTime" in status, ended=True)
    assert status["phase"] == "Succeeded"
    wait_until(lambda: not bed.children("brief", "pods,pvc,configmaps"), lambda: bed.account("brief"))


def test_a_job_that_misses_its_deadline_fails_and_frees_its_pod(bed: Bed) -> None:
    bed.reach("late", phase("Running"))
    bed.kubectl()("patch", "sft", "late", "--type=merge", "-p", json.dumps({"spec": {"deadlineSeconds": 1}}))
    status = bed.end("late")
    assert (status["phase"], condition(status, "Succeeded")["reason"]) == ("Failed", Reason.DEADLINE_EXCEEDED)
    wait_until(lambda: not bed.children("late", "pods"), lambda: bed.account("late"))


def test_a_job_created_suspended_has_no_children_until_it_is_resumed(bed: Bed) -> None:
    bed.reach("patient", phase("Suspended"))
    assert bed.children("patient", "pods,pvc,configmaps") == []
    bed.kubectl()("patch", "sft", "patient", "--type=merge", "-p", json.dumps({"spec": {"suspend": False}}))
    assert bed.end("patient")["phase"] == "Succeeded"


def test_the_next_attempt_makes_a_deleted_config_map_again(bed: Bed) -> None:
    bed.reach("stripped", phase("Running"))
    bed.kubectl()("delete", "configmap", "stripped-config")
    bed.kubectl()("delete", "pod", "stripped-train-1", "--wait=false")
    assert bed.end("stripped")["phase"] == "Succeeded"
    assert bed.server.find("configmap", "stripped-config", f"-n={bed.namespace}")


def test_a_container_killed_for_its_memory_limit_is_told_apart(bed: Bed) -> None:
    status = bed.end("greedy")
    (attempt,) = status["attempts"]
    assert (status["phase"], attempt["reason"], attempt["exitCode"]) == ("Failed", Reason.HOST_OUT_OF_MEMORY, 137)


def test_jobs_of_one_name_in_two_namespaces_do_not_meet(bed: Bed) -> None:
    for namespace in (bed.namespace, bed.second):
        assert bed.end("twin", namespace)["phase"] == "Succeeded"
        assert bed.kubectl(namespace)("logs", "twin-train-1") == f"this is {namespace}\n"

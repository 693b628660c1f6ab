"""A job that a GitOps tool syncs from Git: what the tool sees, and that syncing it again starts nothing."""

from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from support.checks.gitops import argo_health, flux_status
from support.clients.kubectl import Kubectl
from support.faults import faulty, slow
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import WAIT_SECONDS, a_small_job, condition, phase, reach
from support.stacks.running_stack import Lab

pytestmark = pytest.mark.slow
NAME = "synced"
MANAGER = "argocd-controller"
SERVER_SIDE = ("--server-side", f"--field-manager={MANAGER}")
Object = dict[str, Any]


def in_git() -> JobBuilder:
    """Its first attempt would take minutes: it is still going when it is suspended."""
    return a_small_job(NAME).training(max_steps=60).env(**faulty(slow(2, attempt=1)))


def sync(kubectl: Kubectl, job: JobBuilder) -> str:
    """What Argo CD and Flux do: no conflict is forced here."""
    return kubectl("apply", *SERVER_SIDE, "-f", "-", text=yaml.safe_dump(job.manifest()))


def stored(lab: Lab) -> Object:
    body: Object = lab.kubectl.json("get", "sft", NAME, "--show-managed-fields")
    return body


def distinct(words: list[str]) -> list[str]:
    """`words` without repetitions in a row."""
    return [word for i, word in enumerate(words) if i == 0 or word != words[i - 1]]


@dataclass(frozen=True)
class Story:
    """Every version of the job that a watcher saw: trained, suspended and resumed in Git, then done."""

    seen: list[Object]

    @property
    def last(self) -> Object:
        return self.seen[-1]


@pytest.fixture(scope="module")
def story(lab: Lab) -> Story:
    assert sync(lab.kubectl, in_git()) == f"sftjob.sftjob.dev/{NAME} serverside-applied\n"
    seen: list[Object] = []
    commits = [in_git().set("suspend", True), in_git()]
    for body in lab.cluster.follow(NAME, WAIT_SECONDS):
        seen.append(body)
        status = body.get("status", {})
        trains = len(commits) == 2 and status.get("progress", {}).get("step", 0) > 1
        rests = len(commits) == 1 and status.get("phase") == "Suspended"
        if trains or rests:
            sync(lab.kubectl, commits.pop(0))
        if status.get("phase") in ("Succeeded", "Failed"):
            break
    return Story(seen)


def test_argo_cd_sees_it_progress_rest_progress_and_end_well(story: Story) -> None:
    seen = [argo_health(body) for body in story.seen]
    assert distinct([health.status for health in seen]) == ["Progressing", "Suspended", "Progressing", "Healthy"]
    assert any(" of 60 (" in health.message for health in seen if health.status == "Progressing")
    assert seen[-1].message == condition(story.last["status"], "Succeeded")["message"]


def test_flux_waits_while_it_runs(story: Story) -> None:
    words = ["InProgress" if (word := flux_status(body)) == "Unknown" else word for body in story.seen]
    assert distinct(words) == ["InProgress", "Current", "InProgress", "Current"]


def test_only_git_writes_the_spec_and_only_the_operator_the_status(story: Story) -> None:
    metadata = story.last["metadata"]
    owners = {entry["manager"]: (entry.get("subresource"), entry["fieldsV1"]) for entry in metadata["managedFields"]}
    assert owners.keys() == {MANAGER, "sftjob-operator"}
    subresource, fields = owners["sftjob-operator"]
    assert (subresource, set(fields)) == ("status", {"f:status"})
    assert set(owners[MANAGER][1]) == {"f:spec"}
    assert not {"annotations", "labels", "finalizers", "ownerReferences"} & set(metadata)


def test_the_generation_counts_commits_only(story: Story) -> None:
    assert story.last["metadata"]["generation"] == 3
    specs = [{**body["spec"], "suspend": None} for body in story.seen]
    assert all(spec == specs[0] for spec in specs)


def test_a_failed_job_is_degraded_and_says_why(lab: Lab) -> None:
    lab.apply(a_small_job("unsynced", data="absent.jsonl"))
    reach(lab.cluster, "unsynced", phase("Failed", "Succeeded"))
    job = lab.kubectl.json("get", "sft", "unsynced")
    health = argo_health(job)
    assert (health.status, flux_status(job)) == ("Degraded", "Failed")
    assert health.message.startswith("DatasetNotFound: ")


def test_nothing_differs_from_git_after_the_run(story: Story, lab: Lab) -> None:
    assert story.last["status"]["phase"] == "Succeeded"
    done = lab.kubectl.run("diff", *SERVER_SIDE, "-f", "-", text=yaml.safe_dump(in_git().manifest()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_syncing_it_again_starts_nothing_and_changes_nothing(story: Story, lab: Lab) -> None:
    assert story.last["status"]["phase"] == "Succeeded"
    pods = lab.kubectl("get", "pods", "-l", f"sftjob.dev/job={NAME}", "-o", "name")
    before = stored(lab)
    sync(lab.kubectl, in_git())
    assert stored(lab) == before
    lab.kubectl("replace", "-f", "-", text=yaml.safe_dump(in_git().manifest()))
    lab.apply(a_small_job("later").set("suspend", True))
    reach(lab.cluster, "later", phase("Suspended"))  # the operator has seen everything that came before
    after = stored(lab)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert (after["spec"], after["status"]) == (before["spec"], before["status"])
    assert lab.kubectl("get", "pods", "-l", f"sftjob.dev/job={NAME}", "-o", "name") == pods


def test_a_commit_after_the_end_is_seen_and_starts_nothing(story: Story, lab: Lab) -> None:
    pods = lab.kubectl("get", "pods", "-l", f"sftjob.dev/job={NAME}", "-o", "name")
    sync(lab.kubectl, in_git().set("ttlSecondsAfterFinished", 86_400))
    generation = stored(lab)["metadata"]["generation"]
    reach(lab.cluster, NAME, lambda status: status["observedGeneration"] == generation)
    job = stored(lab)
    assert generation == story.last["metadata"]["generation"] + 1
    assert (argo_health(job).status, flux_status(job)) == ("Healthy", "Current")
    assert lab.kubectl("get", "pods", "-l", f"sftjob.dev/job={NAME}", "-o", "name") == pods

"""One job from apply to Succeeded, looked at as its user does: with kubectl, a Prometheus, and a look at the volume."""

import json
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sftjob_contract.layout import EVAL_RESULTS, METRICS, OUTPUT_MODEL, PREPARED_STATS, RUN_CONFIG, TRAIN_LOG
from sftjob_contract.names import GROUP, PLURAL
from support.any_cluster.bed import BAD_LINE, BAD_ROWS, Bed
from support.any_cluster.server import LONG_SECONDS, wait_until
from support.jobs.builders import JobBuilder
from support.jobs.manifests import INVALID, SAMPLES, VALID, expected_sentences
from support.jobs.small_jobs import Status, condition

NAME = "story"
STEPS = 60
ORDER = ["Pending", "Preparing", "Queued", "Running", "Succeeded"]
BAD = "misspelt"


@dataclass(frozen=True)
class Story:
    """The finished job, and its phases in the order in which they were seen."""

    job: JobBuilder
    status: Status
    phases: list[str]


@pytest.fixture(scope="module")
def story(bed: Bed) -> Story:
    """A job that succeeds; one with bad data is prepared at the same time."""
    job = bed.a_job(NAME).training(max_steps=STEPS).checkpoints(every_steps=20, keep=2)
    assert bed.apply(job) == f"sftjob.sftjob.dev/{NAME} created\n"
    bed.apply(bed.a_job(BAD, data=BAD_ROWS))
    phases: list[str] = []

    def ended(status: Status) -> bool:
        if status.get("phase") and status["phase"] not in phases[-1:]:
            phases.append(status["phase"])
        return phases[-1:] == ["Succeeded"]

    return Story(job, bed.reach(NAME, ended), phases)


def test_its_phases_come_in_order(story: Story) -> None:
    assert story.phases == [phase for phase in ORDER if phase in story.phases]
    assert {"Preparing", "Running", "Succeeded"} <= set(story.phases)


def test_its_conditions_tell_the_end(story: Story) -> None:
    told = {kind: condition(story.status, kind) for kind in ("Prepared", "Running", "Succeeded")}
    assert {kind: found["status"] for kind, found in told.items()} == {
        "Prepared": "True",
        "Running": "False",
        "Succeeded": "True",
    }
    assert f"pvc://{NAME}/{OUTPUT_MODEL}" in told["Succeeded"]["message"]


def test_its_evaluation_loss_falls(story: Story) -> None:
    found = story.status["output"]["metrics"]
    assert found["evalLoss"] < found["initialEvalLoss"]


def test_the_server_prints_the_columns_of_the_definition(story: Story, bed: Bed) -> None:
    definition = bed.kubectl().json("get", "crd", f"{PLURAL}.{GROUP}")
    columns = definition["spec"]["versions"][0]["additionalPrinterColumns"]
    header, row = bed.kubectl()("get", "sft", NAME).splitlines()
    assert header.split() == ["NAME", *(column["name"].upper() for column in columns if not column.get("priority"))]
    assert row.split()[:2] == [NAME, "Succeeded"]
    assert str(STEPS) in row.split()
    wide = bed.kubectl()("get", "sft", NAME, "-o", "wide").splitlines()[0].split()
    assert set(wide) == {"NAME", *(column["name"].upper() for column in columns)}


def test_describe_prints_conditions_and_events(story: Story, bed: Bed) -> None:
    text = bed.kubectl()("describe", "sft", NAME)
    for expected in ("Phase:", "Succeeded", "Latest Checkpoint:", "Conditions:", "Events:"):
        assert expected in text
    assert condition(story.status, "Succeeded")["message"][:40] in text


def test_events_of_a_good_run_are_no_warnings(story: Story, bed: Bed) -> None:
    selector = f"involvedObject.kind=SFTJob,involvedObject.name={NAME}"
    events = bed.kubectl().json("get", "events", f"--field-selector={selector}")["items"]
    assert story.status["phase"] == "Succeeded"
    assert events
    assert [event["message"] for event in events if event["type"] != "Normal"] == []


def test_logs_print_the_trainer_s_steps(story: Story, bed: Bed) -> None:
    assert story.status["phase"] == "Succeeded"
    assert f"step {STEPS} of {STEPS}" in bed.kubectl()("logs", f"{NAME}-train-1")


def test_wait_returns_for_a_job_that_has_succeeded(story: Story, bed: Bed) -> None:
    waited = bed.kubectl()("wait", "--for=condition=Succeeded", f"sft/{story.job.metadata['name']}", "--timeout=60s")
    assert waited == f"sftjob.sftjob.dev/{NAME} condition met\n"


def test_applying_it_again_changes_nothing_and_starts_nothing(story: Story, bed: Bed) -> None:
    assert bed.apply(story.job) == f"sftjob.sftjob.dev/{NAME} unchanged\n"
    assert bed.children(NAME, "pods") == [f"pod/{NAME}-prepare-1", f"pod/{NAME}-train-1"]


def test_its_spec_is_immutable(story: Story, bed: Bed) -> None:
    patch = json.dumps({"spec": {"training": {"maxSteps": 700}}})
    refused = bed.kubectl().run("patch", "sft", story.job.metadata["name"], "--type=merge", "-p", patch)
    assert refused.returncode != 0
    assert "spec.training: Invalid value" in refused.stderr


def test_its_pods_hold_no_token_for_the_api(story: Story, bed: Bed) -> None:
    pods = bed.kubectl().json("get", "pods", "-l", f"sftjob.dev/job={NAME}")["items"]
    assert len(pods) == 2, story.status
    for pod in pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert "kube-api-access" not in json.dumps(pod["spec"])


def test_its_volume_is_laid_out_as_documented(story: Story, bed: Bed) -> None:
    files = json.loads(bed.run("reader", "listing.py", claims={"TARGET": NAME}))
    weights = f"{OUTPUT_MODEL}/model.safetensors"
    for path in (PREPARED_STATS, METRICS, TRAIN_LOG, EVAL_RESULTS, RUN_CONFIG, weights):
        assert files.get(path), path
    listed = {checkpoint["uri"] for checkpoint in story.status["checkpoints"]}
    assert listed == {f"pvc://{NAME}/{path.rpartition('/')[0]}" for path in files if "sftjob-manifest" in path}


def test_the_metrics_of_a_finished_job_are_those_of_its_status(story: Story, bed: Bed) -> None:
    def scraped() -> dict[str, float]:
        text = bed.run("scraper", "scrape.py", env={"URL": bed.release.metrics_url})
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        mine = {"job_namespace": bed.namespace, "job_name": NAME}
        return {sample.name: sample.value for sample in samples if mine.items() <= sample.labels.items()}

    found = wait_until(scraped, "the metrics do not have the job")
    assert found["sftjob_job_step"] == STEPS == story.status["progress"]["step"]
    assert found["sftjob_job_loss"] == pytest.approx(story.status["progress"]["loss"])


def test_a_bad_row_ends_the_job_before_train_and_is_named(story: Story, bed: Bed) -> None:
    status = bed.end(BAD)
    told = condition(status, "Succeeded")
    assert (status["phase"], told["reason"]) == ("Failed", "DataInvalid")
    assert f"{BAD_ROWS}:{BAD_LINE}" in told["message"]
    assert bed.children(BAD, "pods") == [f"pod/{BAD}-prepare-1"]


def test_deleting_a_job_removes_its_pods_and_its_claim(story: Story, bed: Bed) -> None:
    bed.delete(NAME, BAD)
    assert bed.children(NAME, "pods,pvc,configmaps") == []


def dry_run(bed: Bed, namespace: str | None, paths: list[Path]) -> "CompletedProcess[str]":
    """What `kubectl apply` says of manifests that the server only checks."""
    files = [word for path in paths for word in ("-f", str(path))]
    return bed.kubectl(namespace).run("apply", "--dry-run=server", *files, timeout=LONG_SECONDS)


def test_the_server_accepts_what_is_right(bed: Bed) -> None:
    for namespace, paths in (("default", SAMPLES), (None, VALID)):
        done = dry_run(bed, namespace, paths)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == len(paths)


def test_the_server_refuses_what_is_wrong_in_the_words_of_the_definition(bed: Bed) -> None:
    refused = dry_run(bed, None, INVALID)
    assert (refused.returncode, refused.stdout) == (1, "")
    sentences = [(path.stem, sentence) for path in INVALID for sentence in expected_sentences(path)]
    assert not [(name, sentence) for name, sentence in sentences if sentence not in refused.stderr]

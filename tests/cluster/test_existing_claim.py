"""A claim that was there before, and on it the content of another run."""

import json

from sftjob_contract.layout import OUTPUT_MODEL
from support.any_cluster.bed import Bed
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import condition

NAME = "again"
CLAIM = "shared"


def a_run(bed: Bed, learning_rate: float) -> JobBuilder:
    """A job that writes to the claim."""
    job = bed.a_job(NAME).training(max_steps=5, learning_rate=learning_rate)
    return job.set("storage", {"existingClaim": CLAIM})


def weights(bed: Bed) -> list[str]:
    """Every output on the claim."""
    files = json.loads(bed.run("reader", "listing.py", claims={"TARGET": CLAIM}))
    return sorted(path for path in files if path.endswith(f"{OUTPUT_MODEL}/model.safetensors"))


def test_a_new_job_of_an_old_name_is_never_given_the_old_job_s_content(bed: Bed) -> None:
    bed.apply(a_run(bed, 1e-3))
    assert bed.end(NAME)["phase"] == "Succeeded"
    mine = f"{NAME}/{OUTPUT_MODEL}/model.safetensors"
    assert weights(bed) == [mine]
    bed.delete(NAME)

    bed.apply(a_run(bed, 5e-4))
    status = bed.end(NAME)
    told = condition(status, "Succeeded")["message"]
    assert status["phase"] == "Failed", told
    assert [attempt["stage"] for attempt in status["attempts"]] == ["prepare"]
    for word in (NAME, "checkpoints.resumeFrom", "storage.existingContent", "MoveAside"):
        assert word in told
    bed.delete(NAME)

    bed.apply(a_run(bed, 5e-4).storage(existing_content="MoveAside"))
    status = bed.end(NAME)
    assert (status["phase"], status["progress"]["step"]) == ("Succeeded", 5)
    assert status["attempts"][-1]["fromStep"] == 0
    found = weights(bed)
    assert mine in found
    assert len(found) == 2, "the first run's output is kept under another name"
    bed.delete(NAME)

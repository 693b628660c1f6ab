"""The samples: one for each common way to fine-tune, each with the meaning that its comment gives."""

import pytest

from sftjob_operator.api import SFTJob, parse_job
from sftjob_operator.render import method_name, run_config
from support.builders import UID
from support.manifests import ROOT, SAMPLES, load_manifest

NAMES = {path.stem for path in SAMPLES}


def sample(name: str) -> SFTJob:
    """A sample as the operator gets it."""
    body = load_manifest(ROOT / "crds" / "samples" / f"{name}.yaml")
    return parse_job({**body, "metadata": {**body["metadata"], "namespace": "team", "uid": UID}})


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_sample_is_named_like_its_file_begins_with_a_comment_and_parses(name: str) -> None:
    text = (ROOT / "crds" / "samples" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert sample(name).metadata.name == name


def test_the_readme_lists_every_sample() -> None:
    table = (ROOT / "crds" / "README.md").read_text(encoding="utf-8")
    assert {name for name in NAMES if f"`{name}.yaml`" in table} == NAMES


@pytest.mark.parametrize(
    ("name", "method", "batch"),
    [
        ("minimal", "lora", 16),
        ("lora", "lora", 16),
        ("qlora", "qlora", 16),
        ("full", "full", 64),
        ("packed-lora", "lora", 16),
        ("chat-messages", "lora", 16),
        ("max-steps", "lora", 8),
        ("cpu", "full", 8),
    ],
)
def test_method_and_batch_of_one_step(name: str, method: str, batch: int) -> None:
    job = sample(name)
    training = job.spec.training
    per_device = training.per_device_batch_size * training.gradient_accumulation_steps
    assert method_name(job) == method
    assert per_device == batch


def test_numbers_without_quotes_are_numbers() -> None:
    assert run_config(sample("qlora")).training.learning_rate == 2e-4
    assert run_config(sample("max-steps")).training.learning_rate == 2e-5

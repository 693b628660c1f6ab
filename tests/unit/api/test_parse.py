"""From the API server's JSON to a typed job, and what a person is told when that is not possible."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from sftjob_operator.api import InvalidJobError, SFTJob, TrainingSpec, parse_job, replace, to_dict
from support.jobs.builders import a_job
from support.jobs.strategies import valid_jobs


def test_a_job_with_the_fewest_fields_gets_every_default() -> None:
    job = a_job().build()
    assert job.spec.training.per_device_batch_size == 4
    assert job.spec.dataset.evaluation.fraction == 0.05
    assert job.spec.resources.gpus == 1
    assert job.spec.method.lora is not None
    assert job.spec.method.lora.target_modules == ("all-linear",)


def test_parsing_and_serializing_again_changes_nothing() -> None:
    body = a_job().qlora(bits=8).training(learning_rate=2e-4, max_steps=10).scheduling(node_selector={"a": "b"}).body()
    once = to_dict(parse_job(body))
    assert to_dict(parse_job(once)) == once
    assert once["spec"]["training"]["learningRate"] == 2e-4


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(job=valid_jobs())
def test_no_field_of_any_job_is_lost_on_the_way(job: SFTJob) -> None:
    assert parse_job(to_dict(job)) == job


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("futureSection", {"x": [1]}, "spec.futureSection"),
        ("training.fancyNewOption", 1, "spec.training.fancyNewOption"),
        (
            "scheduling.tolerations",
            [{"key": "a", "operator": "Exists"}, {"key": "b", "until": 3}],
            "tolerations[1].until",
        ),
        ("dataset.sources", [{"source": "/a", "columns": {"novel": "x"}}], "spec.dataset.sources[0].columns.novel"),
    ],
)
def test_a_field_of_the_spec_that_a_newer_version_has_is_named_and_not_dropped(
    path: str, value: Any, field: str
) -> None:
    with pytest.raises(InvalidJobError, match="is a field that this version of the operator does not know") as caught:
        parse_job(a_job().set(path, value).body())
    assert field in str(caught.value)


def test_maps_with_keys_of_the_users_own_have_no_unknown_fields() -> None:
    job = a_job().training(extra={"any_option": {"a": 1}}).scheduling(node_selector={"a.b/c": "d"})
    assert job.build().spec.training.extra == {"any_option": {"a": 1}}


def test_nulls_mean_absent_everywhere_but_in_the_options_of_libraries() -> None:
    body = a_job().training(extra={"max_grad_norm": None}).body()
    spec = {
        **body["spec"],
        "suspend": None,
        "podMetadata": {"labels": {"a": None, "b": ""}, "annotations": None},
        "scheduling": {"nodeSelector": {"zone": None, "pool": ""}, "tolerations": None, "gpuProducts": None},
        "resources": None,
        "env": None,
    }
    job = parse_job({**body, "spec": spec})
    assert job.spec.training.extra == {"max_grad_norm": None}
    assert job.spec.scheduling.node_selector == {"pool": ""}
    assert job.spec.pod_metadata is not None
    assert job.spec.pod_metadata.labels == {"b": ""}
    assert (job.spec.suspend, job.spec.resources.gpus, job.spec.env) == (False, 1, None)


def test_a_whole_number_quantity_becomes_text() -> None:
    assert a_job().resources(cpu=4).build().spec.resources.cpu == "4"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("training.learningRate", -1, "spec.training.learningRate must be greater than 0, not -1"),
        (
            "training.optimizer",
            "adam",
            "spec.training.optimizer must be 'adalomo', 'ademamix', 'grokadamw' or one of 38 others, not 'adam'",
        ),
        ("training.maxSteps", "many", "spec.training.maxSteps must be a valid integer"),
        ("method.lora.targetModules", ["q", 7], "spec.method.lora.targetModules[1] must be a valid string, not 7"),
        ("model.source", None, "spec.model.source is missing"),
        ("model.source", "pvc://claim/../x", "spec.model.source: 'pvc://claim/../x' must be pvc://CLAIM/PATH"),
        ("storage.size", "50 GB", "spec.storage.size must match pattern"),
        ("dataset.source", "x" * 2000, "spec.dataset.source must have at most 1024 characters, not 'xxx"),
        ("training", [1], "spec.training must be an object, not [1]"),
        ("scheduling.tolerations", [{}] * 17, "spec.scheduling.tolerations must have at most 16 items"),
        ("dataset.sources", [{"source": "/a", "weight": 0}], "spec.dataset.sources[0].weight must be greater than 0"),
        ("training.extra", ["tf32"], "spec.training.extra must be an object, not ['tf32']"),
        ("output.hub", {"repository": "acme/bot"}, "spec.output.hub.tokenSecretRef is missing"),
        ("env", [{"value": "x"}], "spec.env[0].name is missing"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_remedy(path: str, value: Any, sentence: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        parse_job(a_job().set(path, value).body())
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 300


def test_several_faults_are_counted_and_the_first_is_told() -> None:
    with pytest.raises(InvalidJobError, match=r"learningRate must be greater than 0, not 0 \(and 1 more\)"):
        parse_job(a_job().training(learning_rate=0, seed=-1).body())


@pytest.mark.parametrize("body", [{}, {"metadata": {}}, {"metadata": 3, "spec": []}, {"spec": None}])
def test_anything_at_all_gives_a_sentence(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidJobError, match="metadata"):
        parse_job(body)


def test_replace_checks_as_a_new_model_does() -> None:
    training = TrainingSpec()
    assert replace(training, seed=1).seed == 1
    assert training.seed == 42
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        replace(training, seed=-1)
    with pytest.raises(TypeError, match="TrainingSpec has no field sed; it has epochs, "):
        replace(training, sed=1)

"""Properties of rendering that hold for every job: deterministic, pure, and with names that Kubernetes takes."""

import copy
import re
from typing import Any

import kubernetes_validate
from hypothesis import given, settings
from hypothesis import strategies as st

from sftjob_contract.names import Stage
from sftjob_operator.api import NAME_LIMIT, parse_job
from sftjob_operator.render import RenderSettings, config_map, pod, volume_claim
from support.builders import a_job
from support.pod_security import violations

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

names = st.from_regex(rf"[a-z0-9]([-a-z0-9]{{0,{NAME_LIMIT - 2}}}[a-z0-9])?", fullmatch=True)
sources = st.sampled_from(["/data/x", "pvc://a/x", "pvc://b.c/x", "pvc://demo/x"]) | names.map("pvc://{}/x".format)
quantities = st.none() | st.integers(1, 999) | st.sampled_from(["500m", "8Gi", "1.5Gi"])
tolerations = st.lists(st.sampled_from([{"operator": "Exists"}, {"key": "a", "value": "b"}]), max_size=3)
render_settings = st.builds(
    RenderSettings,
    trainer_image=st.just("trainer:1"),
    progress_url=st.sampled_from([None, "https://operator:8443"]),
    progress_ca=st.sampled_from([None, "PEM"]),
)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    job = a_job(draw(names)).model(draw(sources)).dataset(draw(sources))
    job = draw(st.sampled_from([job.full(), job.lora(rank=4), job.qlora(bits=8)]))
    return (
        job.resources(gpus=draw(st.integers(0, 1)), cpu=draw(quantities), memory=draw(quantities))
        .scheduling(node_selector=draw(st.dictionaries(names, names, max_size=2)), tolerations=draw(tolerations))
        .body()
    )


def render(body: dict[str, Any], attempt: int, with_settings: RenderSettings) -> list[dict[str, Any]]:
    job = parse_job(body)
    pods = [pod(job, stage, attempt, with_settings) for stage in Stage]
    return [volume_claim(job), config_map(job, with_settings), *pods]


@settings(max_examples=60, deadline=None)
@given(body=bodies(), attempt=st.integers(1, 999_999), with_settings=render_settings)
def test_rendering_is_deterministic_pure_and_well_named(
    body: dict[str, Any], attempt: int, with_settings: RenderSettings
) -> None:
    before = copy.deepcopy(body)
    first, again = render(body, attempt, with_settings), render(body, attempt, with_settings)
    assert first == again
    assert body == before
    assert len({document["metadata"]["name"] for document in first if document["kind"] == "Pod"}) == len(Stage)
    for document in first:
        assert DNS_LABEL.fullmatch(document["metadata"]["name"])
        assert all(LABEL_VALUE.fullmatch(value) for value in document["metadata"]["labels"].values())
        if document["kind"] == "Pod":
            assert violations(document) == []


@settings(max_examples=10, deadline=None)
@given(body=bodies(), with_settings=render_settings)
def test_whatever_is_rendered_fits_the_published_schema(body: dict[str, Any], with_settings: RenderSettings) -> None:
    for document in render(body, 1, with_settings):
        kubernetes_validate.validate(document, "1.37", strict=True)


@given(body=bodies())
@settings(max_examples=20, deadline=None)
def test_what_is_returned_belongs_to_the_caller(body: dict[str, Any]) -> None:
    job = parse_job(body)
    with_settings = RenderSettings(trainer_image="trainer:1", progress_url=None, progress_ca=None)
    expected = copy.deepcopy(pod(job, Stage.TRAIN, 1, with_settings))
    mine = pod(job, Stage.TRAIN, 1, with_settings)
    for part in (
        mine["metadata"]["labels"],
        mine["spec"].get("nodeSelector", {}),
        *mine["spec"].get("tolerations", []),
    ):
        part["scribble"] = "x"
    mine["spec"]["containers"][0]["env"].clear()
    assert pod(job, Stage.TRAIN, 1, with_settings) == expected

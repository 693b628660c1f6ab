"""Properties of rendering that hold for every valid job: deterministic, pure, well named, harmless."""

import copy
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sftjob_contract.names import LABEL_STAGE, Stage
from sftjob_operator.api import SFTJob, parse_job, to_dict
from sftjob_operator.render import OWN_VARIABLES, RenderSettings
from support.checks.pod_security import violations
from support.checks.rendering import SCHEMA_VERSIONS, Object, check_published_schema, pods_among, render_all
from support.jobs.builders import UID
from support.jobs.strategies import valid_jobs, valid_manifests

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
PLANTED = "planted-"
SECRET_PLACES = re.compile(
    r"(valueFrom[.]secretKeyRef[.](name|key)|envFrom[.]secretRef[.]name|imagePullSecrets[.]name)$"
)

attempts = st.integers(1, 99_999)
render_settings = st.builds(
    RenderSettings,
    trainer_image=st.just("trainer:1"),
    progress_url=st.sampled_from([None, "https://operator:8443"]),
    progress_ca=st.sampled_from([None, "PEM"]),
)


def texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in an object with the path to it, positions in lists left out."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield path, key
            yield from texts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for item in node:
            yield from texts(item, path)
    elif isinstance(node, str):
        yield path, node


def with_marked_secrets(node: Any, key: str = "") -> Any:
    """A manifest whose names and keys of Secrets can be told from all other text."""
    if isinstance(node, list):
        return [with_marked_secrets(item, key) for item in node]
    if not isinstance(node, dict):
        return node
    if key.lower().endswith(("secretref", "secretkeyref", "imagepullsecrets")):
        return {field: PLANTED + value for field, value in node.items()}
    return {field: with_marked_secrets(value, field) for field, value in node.items()}


def job_of(manifest: dict[str, Any]) -> SFTJob:
    return parse_job({**manifest, "metadata": {**manifest["metadata"], "uid": UID}})


def emptied(node: Any) -> None:
    """Clear everything that can be changed in an object."""
    for part in node.values() if isinstance(node, dict) else node:
        if isinstance(part, dict | list):
            emptied(part)
    node.clear()


def containers(documents: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each Pod with its container."""
    for document in pods_among(documents):
        (container,) = document["spec"]["containers"]
        yield document, container


@settings(max_examples=25, deadline=None)
@given(job=valid_jobs(), attempt=attempts, with_settings=render_settings)
def test_rendering_is_deterministic_and_changes_nothing(
    job: SFTJob, attempt: int, with_settings: RenderSettings
) -> None:
    before = copy.deepcopy(to_dict(job))
    first = render_all(job, with_settings, attempt=attempt)
    expected = copy.deepcopy(first)
    assert render_all(job, with_settings, attempt=attempt) == expected
    emptied(first)
    assert render_all(job, with_settings, attempt=attempt) == expected, "what is returned belongs to the caller"
    assert to_dict(job) == before


@settings(max_examples=25, deadline=None)
@given(job=valid_jobs(), attempt=attempts, with_settings=render_settings)
def test_every_child_is_well_named_and_no_two_share_a_name(
    job: SFTJob, attempt: int, with_settings: RenderSettings
) -> None:
    documents = render_all(job, with_settings, attempt=attempt)
    for document in documents:
        pattern = SERVICE_NAME if document["kind"] == "Service" else DNS_LABEL
        assert pattern.fullmatch(document["metadata"]["name"])
        assert all(LABEL_VALUE.fullmatch(value) for value in document["metadata"]["labels"].values())
        assert document["metadata"]["namespace"] == job.metadata.namespace
    assert len({(document["kind"], document["metadata"]["name"]) for document in documents}) == len(documents)


@settings(max_examples=25, deadline=None)
@given(job=valid_jobs(), with_settings=render_settings)
def test_every_pod_is_restricted_and_mounts_what_it_declares(job: SFTJob, with_settings: RenderSettings) -> None:
    for document, container in containers(render_all(job, with_settings)):
        assert violations(document) == []
        assert document["spec"]["automountServiceAccountToken"] is False
        declared = [volume["name"] for volume in document["spec"]["volumes"]]
        assert len(set(declared)) == len(declared)
        assert {mount["name"] for mount in container["volumeMounts"]} == set(declared)
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(set(paths)) == len(paths)
        claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in document["spec"]["volumes"]]
        named = [claim for claim in claims if claim is not None]
        assert len(set(named)) == len(named)


@settings(max_examples=25, deadline=None)
@given(job=valid_jobs(), with_settings=render_settings)
def test_prepare_never_asks_for_a_gpu_and_train_for_all_of_them(job: SFTJob, with_settings: RenderSettings) -> None:
    for document, container in containers(render_all(job, with_settings)):
        trains = document["metadata"]["labels"][LABEL_STAGE] == Stage.TRAIN
        gpus = str(job.spec.resources.gpus) if trains and job.spec.resources.gpus else None
        for kind in ("requests", "limits"):
            assert container["resources"].get(kind, {}).get(job.spec.resources.gpu_resource_name) == gpus


@settings(max_examples=25, deadline=None)
@given(job=valid_jobs(), with_settings=render_settings)
def test_every_variable_is_set_once_and_the_users_own_stay(job: SFTJob, with_settings: RenderSettings) -> None:
    for _, container in containers(render_all(job, with_settings)):
        names = [entry["name"] for entry in container["env"]]
        users = [variable.name for variable in job.spec.env or ()]
        assert len(set(names)) == len(names)
        assert names[: len(users)] == users
        assert set(names) - set(users) <= OWN_VARIABLES | {"OMP_NUM_THREADS"}
        assert all(("value" in entry) != ("valueFrom" in entry) for entry in container["env"])


@settings(max_examples=40, deadline=None)
@given(manifest=valid_manifests(), with_settings=render_settings)
def test_secrets_are_nowhere_but_in_references(manifest: dict[str, Any], with_settings: RenderSettings) -> None:
    job = job_of(with_marked_secrets(manifest))
    for document in render_all(job, with_settings):
        places = {path for path, text in texts(document) if PLANTED in text}
        assert all(document["kind"] == "Pod" and SECRET_PLACES.search(path) for path in places)


@settings(max_examples=10, deadline=None)
@given(job=valid_jobs(), with_settings=render_settings, version=st.sampled_from(SCHEMA_VERSIONS))
def test_whatever_is_rendered_fits_the_published_schemas(
    job: SFTJob, with_settings: RenderSettings, version: str
) -> None:
    nodes = min(job.spec.resources.nodes, 2)  # the Pods of other nodes differ by a number
    for document in render_all(job, with_settings)[: 4 + nodes]:
        check_published_schema(document, version)

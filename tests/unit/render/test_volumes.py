"""The volume of a job, what else its Pods mount, and where in the container it all lies."""

from typing import Any

import pytest

from sftjob_contract.layout import node_kernels
from sftjob_contract.names import ANNOTATION_JOB_UID, ENV_CACHE, ENV_FILES, ENV_VOLUME, MOUNT_FILES, Stage
from sftjob_contract.run.config import ChatTemplate, RowFunction
from sftjob_operator.render import pod, run_config, volume_claim, volume_claim_name
from support.checks.rendering import REPORTING
from support.jobs.builders import UID, JobBuilder, a_job

STAGES = tuple(Stage)


def spec_of(job: JobBuilder, stage: Stage = Stage.TRAIN) -> dict[str, Any]:
    return dict(pod(job.build(), stage, 1, REPORTING)["spec"])


def mounted(job: JobBuilder, stage: Stage = Stage.TRAIN) -> dict[str, tuple[str, bool]]:
    """By path, the claim that is mounted there and whether it is read-only."""
    spec = spec_of(job, stage)
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v
    }
    (container,) = spec["containers"]
    return {
        mount["mountPath"]: (claims[mount["name"]], mount.get("readOnly", False))
        for mount in container["volumeMounts"]
        if mount["name"] in claims
    }


def variables(job: JobBuilder, stage: Stage = Stage.TRAIN) -> dict[str, str]:
    return environ(pod(job.build(), stage, 1, REPORTING))


def environ(rendered: dict[str, Any]) -> dict[str, str]:
    (container,) = rendered["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_the_claim_is_made_as_it_was_asked_for() -> None:
    claim = volume_claim(a_job().storage(size="1Ti", storage_class_name="fast", access_modes=["ReadWriteMany"]).build())
    assert claim is not None
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Ti"}},
        "storageClassName": "fast",
    }


def test_an_empty_storage_class_is_one_and_not_the_default() -> None:
    claim = volume_claim(a_job().storage(storage_class_name="").build())
    assert claim is not None
    assert claim["spec"]["storageClassName"] == ""


def test_a_claim_is_deleted_with_the_job_unless_it_is_to_be_retained() -> None:
    deleted, retained = volume_claim(a_job().build()), volume_claim(a_job().storage(retain=True).build())
    assert deleted is not None
    assert retained is not None
    (owner,) = deleted["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("SFTJob", UID)
    assert "ownerReferences" not in retained["metadata"]
    assert retained["metadata"]["annotations"][ANNOTATION_JOB_UID] == UID
    assert ANNOTATION_JOB_UID not in deleted["metadata"]["annotations"]


@pytest.mark.parametrize("stage", STAGES)
def test_on_a_claim_that_was_there_the_job_works_in_a_directory_of_its_own(stage: Stage) -> None:
    job = a_job("demo").storage(existing_claim="team.shared")
    assert volume_claim(job.build()) is None
    assert volume_claim_name(job.build()) == "team.shared"
    assert mounted(job, stage) == {"/sftjob": ("team.shared", False)}
    assert variables(job, stage)[ENV_VOLUME] == "/sftjob/demo"
    assert variables(job, stage)[ENV_CACHE] == "/sftjob/demo/cache"


@pytest.mark.parametrize("stage", STAGES)
def test_downloads_go_to_the_volume_of_the_job(stage: Stage) -> None:
    assert mounted(a_job("demo"), stage) == {"/sftjob": ("demo", False)}
    assert variables(a_job(), stage)[ENV_CACHE] == variables(a_job(), stage)["HF_HOME"] == "/sftjob/cache"


@pytest.mark.parametrize(("stage", "read_only"), [(Stage.PREPARE, False), (Stage.TRAIN, True)])
def test_a_shared_cache_is_filled_by_prepare_and_only_read_by_train(stage: Stage, *, read_only: bool) -> None:
    job = a_job("demo").storage(shared_cache_claim="cache")
    assert mounted(job, stage) == {"/sftjob": ("demo", False), "/mnt/cache": ("cache", read_only)}
    assert variables(job, stage)[ENV_CACHE] == variables(job, stage)["HF_HOME"] == "/mnt/cache"


def test_what_libraries_write_while_training_never_goes_to_the_shared_cache() -> None:
    job = a_job().storage(shared_cache_claim="cache")
    there = {name for name, value in variables(job).items() if value.startswith("/mnt/cache")}
    assert there == {ENV_CACHE, "HF_HOME"}


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("shared_cache", ["", "cache"])
def test_kernels_compiled_by_a_node_are_on_the_volume_for_its_next_attempt(nodes: int, shared_cache: str) -> None:
    job = a_job("demo").storage(existing_claim="disk", shared_cache_claim=shared_cache or None).resources(nodes=nodes)
    caches = []
    for rank in range(nodes):
        first, second = (environ(pod(job.build(), Stage.TRAIN, attempt, REPORTING, rank)) for attempt in (1, 2))
        for name, library in (("TRITON_CACHE_DIR", "triton"), ("TORCHINDUCTOR_CACHE_DIR", "torchinductor")):
            assert first[name] == second[name] == f"/sftjob/demo/{node_kernels(rank)}/{library}"
            caches.append(first[name])
    assert len({*caches}) == 2 * nodes


@pytest.mark.parametrize(
    ("job", "prepare", "train"),
    [
        (a_job(), [], []),
        (a_job().model("pvc://models/m").dataset("pvc://data/t.jsonl"), ["models", "data"], ["models"]),
        (a_job().model("pvc://same/m").dataset("pvc://same/t.jsonl"), ["same"], ["same"]),
        (a_job("demo").dataset("pvc://demo/t.jsonl"), [], []),
        (a_job().dataset("/d", evaluation={"source": "pvc://other.claim/e"}), ["other.claim"], []),
        (
            a_job().set("dataset", {"sources": [{"source": "pvc://a/x"}, {"source": "/y"}, {"source": "pvc://b/z"}]}),
            ["a", "b"],
            [],
        ),
        (a_job().set("method.distillation", {"teacher": {"source": "pvc://big/t"}}), ["big"], ["big"]),
        (a_job().checkpoints(resume_from={"sftJob": "older"}), [], ["older"]),
        (a_job().checkpoints(resume_from={"source": "pvc://kept/checkpoint-5"}), [], ["kept"]),
        (a_job().checkpoints(resume_from={"source": "s3://kept/checkpoint-5"}), [], []),
    ],
)
def test_foreign_claims_are_mounted_once_and_read_only(job: JobBuilder, prepare: list[str], train: list[str]) -> None:
    for stage, expected in ((Stage.PREPARE, prepare), (Stage.TRAIN, train)):
        foreign = {path: claim for path, claim in mounted(job, stage).items() if path.startswith("/mnt/claims/")}
        assert foreign == {f"/mnt/claims/{claim}": (claim, True) for claim in expected}


def test_a_claim_that_serves_several_ends_is_one_volume() -> None:
    job = a_job("demo").dataset("pvc://team/rows").storage(existing_claim="team", shared_cache_claim="team")
    assert mounted(job, Stage.PREPARE) == {
        "/sftjob": ("team", False),
        "/mnt/cache": ("team", False),
        "/mnt/claims/team": ("team", True),
    }
    claims = [volume for volume in spec_of(job, Stage.PREPARE)["volumes"] if "persistentVolumeClaim" in volume]
    assert len(claims) == 1


def user_files(job: JobBuilder) -> list[tuple[str, str, str]]:
    """ConfigMap, key and path of each file of the user's own in Prepare."""
    spec = spec_of(job, Stage.PREPARE)
    (container,) = spec["containers"]
    (volume,) = (v for v in spec["volumes"] if v["name"] == "files")
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "files")
    assert mount == {"name": "files", "mountPath": MOUNT_FILES, "readOnly": True}
    assert {"name": ENV_FILES, "value": MOUNT_FILES} in container["env"]
    assert "sftjob-files" not in str(spec_of(job))
    maps = [source["configMap"] for source in volume["projected"]["sources"]]
    return [(each["name"], item["key"], item["path"]) for each in maps for item in each["items"]]


def test_a_chat_template_of_a_config_map_is_a_file_of_prepare() -> None:
    reference = {"name": "templates", "key": "support.jinja"}
    job = a_job().model("hf://a/b", chat_template={"configMapKeyRef": reference})
    file = "templates/support.jinja"
    assert user_files(job) == [("templates", "support.jinja", file)]
    assert run_config(job.build()).model.chat_template == ChatTemplate(name=None, jinja=None, file=file)


@pytest.mark.parametrize("template", [{"name": "chatml"}, {"jinja": "{{ messages }}"}])
def test_other_chat_templates_need_no_file(template: dict[str, str]) -> None:
    job = a_job().model("hf://a/b", chat_template=template)
    assert spec_of(job, Stage.PREPARE)["volumes"] == spec_of(a_job(), Stage.PREPARE)["volumes"]


def a_function(name: str, key: str) -> dict[str, Any]:
    return {"preprocessing": {"function": {"configMapKeyRef": {"name": name, "key": key}, "name": "clean"}}}


def test_the_files_of_preprocessing_functions_are_files_of_prepare_each_once() -> None:
    sources = [
        {"source": "/a", **a_function("chats", "rows.py")},
        {"source": "/b", **a_function("books", "rows.py")},
        {"source": "/c", "preprocessing": {"template": {"text": "{{ body }}"}}},
        {"source": "/d"},
        {"source": "/e"},
    ]
    job = a_job().set("dataset", {"sources": sources, **a_function("chats", "other.py")})
    named = (("chats", "rows.py"), ("books", "rows.py"), ("chats", "other.py"))
    assert user_files(job) == [(name, key, f"{name}/{key}") for name, key in named]
    functions = [part.preprocessing and part.preprocessing.function for part in run_config(job.build()).dataset.sources]
    assert functions == [
        RowFunction(file="chats/rows.py", name="clean"),
        RowFunction(file="books/rows.py", name="clean"),
        None,
        *[RowFunction(file="chats/other.py", name="clean")] * 2,
    ]

"""Both images, built, and run as on a strict cluster: read-only, no capability, no network, a user without a name."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import images
import pytest

from sftjob_contract import names
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.layout import OUTPUT_ADAPTER
from sftjob_contract.outcome import Outcome
from support.containers import REVISION, USER, Containers
from support.tiny import lora, run_config, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CLAIM = "inputs"
ROWS = 12
STEPS = 3


@pytest.fixture(params=[*images.FOLDERS])
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(image: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(image))


def test_the_same_source_makes_the_same_image(image: str, name: str, containers: Containers, wheels: Path) -> None:
    first = containers.image_id(name)
    assert containers.image_id(containers.build(image, wheels)) == first


def test_an_image_says_what_it_is_and_runs_as_a_numeric_user(image: str, name: str, containers: Containers) -> None:
    config = json.loads(containers.call("podman", "image", "inspect", name))[0]["Config"]
    prefix = "org.opencontainers.image."
    told = {key.removeprefix(prefix): value for key, value in config["Labels"].items() if key.startswith(prefix)}
    assert told.pop("description")
    assert told == {
        "title": f"sftjob-{image}",
        "licenses": "Apache-2.0",
        "version": images.version(),
        "revision": REVISION,
    }
    assert config["User"] == "65532:65532"


def test_an_image_has_no_compiler_no_pip_and_no_file_of_the_build(name: str, containers: Containers) -> None:
    script = "for tool in cc gcc c++ make pip pip3; do command -v $tool; done; ls -d /src /dist /tools /wheels"
    assert containers.shell(name, f"({script}) 2> /dev/null || true") == ""


def test_an_image_holds_nothing_that_its_user_could_change(name: str, containers: Containers) -> None:
    assert containers.shell(name, "find /opt/venv ! -type l -writable") == ""


def test_every_module_of_ours_is_compiled_ahead(image: str, name: str, containers: Containers) -> None:
    script = (
        f"cd /opt/venv/lib/python3*/site-packages/sftjob_{image}; "
        "find . -name '*.py' | wc -l; find . -name '*.cpython-*.pyc' | wc -l"
    )
    modules, compiled = map(int, containers.shell(name, script).split())
    assert modules == compiled > 10


def test_an_image_knows_nothing_of_the_other_program(image: str, name: str, containers: Containers) -> None:
    others = {"operator": "sftjob_trainer torch transformers", "trainer": "sftjob_operator kopf kubernetes"}[image]
    ours = containers.shell(name, "ls /opt/venv/lib/python3*/site-packages").split()
    assert {"sftjob_contract", f"sftjob_{image}"} < {*ours}
    assert not {*others.split()} & {*ours}


def test_the_operator_says_its_version(operator: str, containers: Containers) -> None:
    ended = containers.run(operator, "--version")
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, images.version(), "")


def test_the_operator_says_in_a_sentence_what_it_lacks(operator: str, containers: Containers) -> None:
    ended = containers.run(operator)
    assert ended.returncode == 2
    assert "SFTJOB_TRAINER_IMAGE" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_operator_says_in_a_sentence_that_there_is_no_cluster(operator: str, containers: Containers) -> None:
    given = {"SFTJOB_TRAINER_IMAGE": "trainer:1", "SFTJOB_PROGRESS_TLS_DIR": "/tmp/tls"}
    ended = containers.run(operator, options=variables(given))
    assert ended.returncode == 2
    assert "Set KUBECONFIG to a kubeconfig file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_trainer_says_in_a_sentence_what_it_lacks(trainer: str, containers: Containers) -> None:
    ended = containers.run(trainer, names.Stage.TRAIN)
    assert ended.returncode == 65
    assert f"the environment variable {names.ENV_VOLUME} is not set" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_trainer_prepares_and_trains_with_lora(trainer: str, containers: Containers, tmp_path: Path) -> None:
    volume = write_inputs(tmp_path)
    for stage in (names.Stage.PREPARE, names.Stage.TRAIN):
        ended = containers.run(trainer, stage, options=pod(tmp_path, volume))
        assert ended.returncode == 0, ended.stdout + ended.stderr
    outcome = from_json(Outcome, (volume / "termination-log").read_text(), ignore_unknown=False)
    assert outcome.stage is names.Stage.TRAIN
    assert outcome.progress is not None
    assert outcome.progress.step == STEPS
    assert (volume / OUTPUT_ADAPTER / "adapter_model.safetensors").stat().st_size > 0


def write_inputs(directory: Path) -> Path:
    """A model and a data set on a claim, the run config, and an empty volume, which is returned."""
    claim = directory / CLAIM
    claim.mkdir()
    write_model(claim / "model")
    rows = [{"prompt": f"what is {number}?", "completion": f"{number} is a number"} for number in range(ROWS)]
    (claim / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = run_config(
        model=f"pvc://{CLAIM}/model", dataset=f"pvc://{CLAIM}/rows.jsonl", method=lora(), max_steps=STEPS
    )
    (directory / names.CONFIG_KEY).write_text(to_json(config))
    volume = directory / "volume"
    volume.mkdir()
    for path in (volume, *claim.rglob("*")):
        os.chown(path, USER, USER)
    return volume


def pod(directory: Path, volume: Path) -> list[str]:
    """Mounts and environment as the operator renders them."""
    mounts = {
        directory / CLAIM: f"{names.MOUNT_CLAIMS}/{CLAIM}:ro",
        directory / names.CONFIG_KEY: f"{names.MOUNT_CONFIG}/{names.CONFIG_KEY}:ro",
        volume: names.MOUNT_VOLUME,
    }
    given = {
        names.ENV_CLAIMS: names.MOUNT_CLAIMS,
        names.ENV_RUN_CONFIG: f"{names.MOUNT_CONFIG}/{names.CONFIG_KEY}",
        names.ENV_VOLUME: names.MOUNT_VOLUME,
        names.ENV_TERMINATION_LOG: f"{names.MOUNT_VOLUME}/termination-log",
    }
    return [*variables(given), *(f"--volume={source}:{target}" for source, target in mounts.items())]


def variables(given: Mapping[str, str]) -> list[str]:
    return [f"--env={name}={value}" for name, value in given.items()]

"""Secrets of a job whose own code shows them everywhere: logs, status, Events and volume have none of them."""

import base64
import json
import shutil
from pathlib import Path

import pytest
import yaml

from support.checks.exposure import exposed, places
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import INPUT, a_small_job, condition, phase, reach
from support.stacks.running_stack import Lab

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "made/up+by=the-tests",
    "MLFLOW_TRACKING_PASSWORD": "made up, with spaces & more",
    "DB_URL": "postgres://somewhere/made-up-by-tests",
}
CODE = """
import logging, os, sys, warnings
from urllib.parse import quote

from transformers import PreTrainedTokenizerFast

VALUES = [os.environ[name] for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "DB_URL")]
TEXT = " ".join([*VALUES, *(f"https://me:{quote(value, safe='')}@host" for value in VALUES)])

class Telling(PreTrainedTokenizerFast):
    def __init__(self, *arguments, **options):
        print("printed", TEXT)
        print("printed", TEXT, file=sys.stderr)
        logging.getLogger("somebodys.library").error("logged %s", TEXT)
        warnings.warn("warned " + TEXT)
        super().__init__(*arguments, **options)

class Failing(PreTrainedTokenizerFast):
    def __init__(self, *arguments, **options):
        raise RuntimeError("no connection: " + TEXT)
"""


@pytest.fixture(scope="module")
def planted(lab: Lab) -> None:
    """The Secret, models whose code shows it, and a job for each: they run at the same time."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in SECRETS.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "planted"}, "data": data}
    lab.kubectl("apply", "-f", "-", text=yaml.safe_dump(secret))
    for name in ("Telling", "Failing"):
        model = Path(shutil.copytree(lab.input / "model", lab.input / name.lower()))
        settings = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(
            json.dumps({**settings, "auto_map": {"AutoTokenizer": [None, f"telling_code.{name}"]}})
        )
        (model / "telling_code.py").write_text(CODE)
        lab.apply(with_its_code(name.lower()))


def with_its_code(name: str) -> JobBuilder:
    """A job on the model of its name that may run the model's code, with all secrets in its environment."""
    variables = [{"name": key, "valueFrom": {"secretKeyRef": {"name": "planted", "key": key}}} for key in SECRETS]
    job = a_small_job(name).training(max_steps=5).model(f"pvc://{INPUT}/{name}", trust_remote_code=True)
    return job.set("env", variables)


def test_a_run_whose_code_tells_everything_tells_no_secret(lab: Lab, planted: None) -> None:
    assert reach(lab.cluster, "telling", phase("Succeeded", "Failed"))["phase"] == "Succeeded"
    log = lab.kubectl("logs", "telling-prepare-1")
    assert all(f"{what} [AWS_SECRET_ACCESS_KEY]" in log for what in ("printed", "logged", "warned"))
    assert "[DB_URL]" in log
    assert exposed(lab.stack, lab.kubectl) == []


def test_a_failure_that_tells_everything_tells_no_secret(lab: Lab, planted: None) -> None:
    status = reach(lab.cluster, "failing", phase("Succeeded", "Failed"))
    assert "no connection: [AWS_SECRET_ACCESS_KEY]" in condition(status, "Succeeded")["message"]
    assert exposed(lab.stack, lab.kubectl) == []


def test_the_search_finds_a_secret_wherever_it_lies(lab: Lab, planted: None) -> None:
    value = SECRETS["AWS_SECRET_ACCESS_KEY"]
    note = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "note"}, "data": {"text": f"it is {value}"}}
    lab.kubectl("apply", "-f", "-", text=json.dumps(note))
    file = lab.input / "logs" / "note.log"
    file.parent.mkdir()
    file.write_text(f"it is {base64.b64encode(value.encode()).decode()}")
    try:
        assert exposed(lab.stack, lab.kubectl) == [
            "planted/AWS_SECRET_ACCESS_KEY in objects",
            "planted/AWS_SECRET_ACCESS_KEY in volumes/default/input/logs/note.log",
        ]
    finally:
        lab.kubectl("delete", "configmap", "note")
        file.unlink()


def test_the_search_looks_at_logs_and_volumes(lab: Lab) -> None:
    found = {str(path.relative_to(lab.stack.data)) for path in places(lab.stack)}
    assert {"logs/operator.log", "logs/sandbox.log", "volumes/default/telling/logs/train.log"} <= found
    assert any(path.startswith("pods/default_telling-train-1") for path in found)

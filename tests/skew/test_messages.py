"""Operator and trainer of neighbouring releases understand each other's run configs, reports and outcomes."""

import json
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.codec import encode, from_json, to_json
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.progress import Progress
from sftjob_operator.api import parse_job
from sftjob_operator.render import run_config
from sftjob_trainer.preflight.run_config import read_config
from support.jobs.manifests import ROOT, load_manifest
from support.stacks.previous import Previous

RENDER = """
from sftjob_contract.codec import to_json
from sftjob_operator.api import parse_job
from sftjob_operator.render import run_config

def answer(body):
    return to_json(run_config(parse_job(body)))
"""
READ_CONFIG = """
import tempfile
from pathlib import Path
from sftjob_trainer.configuration import read_config
from sftjob_trainer.failure import Failure

def answer(text):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.json"
        path.write_text(text)
        try:
            read_config(path)
        except Failure as failure:
            return failure.message
"""
READ_MESSAGES = """
from sftjob_contract.codec import from_json, encode
from sftjob_contract.outcome import Outcome
from sftjob_contract.progress import Progress

def answer(message):
    cls = Outcome if "exitCode" in message else Progress
    return encode(from_json(cls, json.dumps(message), ignore_unknown=True))
"""


@pytest.fixture(scope="module")
def jobs(previous: Previous) -> dict[str, Any]:
    """What users of the previous release have: its samples and the jobs of its own tests, by file."""
    paths = [
        *sorted((previous.root / "crds" / "samples").glob("*.yaml")),
        *sorted((previous.root / "tests" / "unit" / "render" / "golden").glob("*/in.yaml")),
        previous.root / "tests" / "contract" / "golden" / "job.yaml",
    ]
    served = {"namespace": "team", "uid": "0b5b1a9e-5a1e-4c3f-9d53-1f2f3c7d8e90", "generation": 1}
    bodies = {str(path.relative_to(previous.root)): load_manifest(path) for path in paths}
    jobs = {name: {**body, "metadata": {**served, **body["metadata"]}} for name, body in bodies.items()}
    return {name: body for name, body in jobs.items() if "command" not in body["spec"]}


def test_the_previous_trainer_reads_the_config_that_this_operator_renders(
    previous: Previous, jobs: dict[str, Any]
) -> None:
    rendered = [to_json(run_config(parse_job(body))) for body in jobs.values()]
    with previous.asked(READ_CONFIG) as ask:
        refused = {name: ask(text) for name, text in zip(jobs, rendered, strict=True)}
    assert {name: why for name, why in refused.items() if why is not None} == {}


def test_this_trainer_reads_the_config_that_the_previous_operator_rendered(
    previous: Previous, jobs: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    with previous.asked(RENDER) as ask:
        for body in jobs.values():
            rendered = ask(body)
            config.write_text(rendered, encoding="utf-8")
            assert is_part_of(json.loads(rendered), encode(read_config(config)))


def messages(root: Path) -> list[Any]:
    """What a trainer says while it runs and at its end, of the release whose sources are in `root`."""
    golden = root / "tests" / "contract" / "golden"
    paths = [golden / "progress.json", *sorted(golden.glob("outcome-*.json"))]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_the_previous_operator_reads_what_this_trainer_says(previous: Previous) -> None:
    with previous.asked(READ_MESSAGES) as ask:
        for message in messages(ROOT):
            assert is_part_of(ask(message), message)


def test_this_operator_reads_what_the_previous_trainer_says(previous: Previous) -> None:
    for message in messages(previous.root):
        cls = Outcome if "exitCode" in message else Progress
        assert is_part_of(message, encode(from_json(cls, json.dumps(message), ignore_unknown=True)))


def is_part_of(part: Any, whole: Any) -> bool:
    """`whole` says all that `part` does; a newer message may have fields that an older reader ignores."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_part_of(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(is_part_of, part, whole))
    return bool(part == whole)

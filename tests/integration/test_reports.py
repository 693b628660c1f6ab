"""The progress endpoint believes nobody but the Pod that trains the job right now."""

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sftjob_contract.names import CA_KEY, ENV_PROGRESS_URL, PROGRESS_BODY_LIMIT_BYTES, TOKEN_AUDIENCE
from support.faults import faulty, held, let_go, slow
from support.jobs.small_jobs import a_small_job, beyond, phase, reach
from support.stacks.running_stack import Lab

GOLDEN = Path(__file__).parent.parent / "contract" / "golden" / "progress.json"
FORGED_STEP = 9_149
STEPS = 10_000
"""More than are done before the test is over."""


@dataclass(frozen=True)
class Endpoint:
    """The operator's progress endpoint as a Pod of `job` is told of it."""

    url: str
    ca: str

    def post(self, body: bytes, token: str | None) -> int:
        """HTTP status of a report."""
        address = urlsplit(self.url)
        assert address.hostname is not None
        context = ssl.create_default_context(cadata=self.ca)
        connection = http.client.HTTPSConnection(address.hostname, address.port, context=context, timeout=10)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        connection.request("POST", address.path, body, headers)
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture(scope="module")
def endpoint(lab: Lab) -> Endpoint:
    """The endpoint of the job `reports`, which trains at this moment; a second job does so too."""
    lab.apply(a_small_job("reports").training(max_steps=STEPS).env(**faulty(slow(0.12))))
    lab.apply(a_small_job("neighbour").training(max_steps=10).env(**faulty(held(5))))
    for name in ("reports", "neighbour"):
        reach(lab.cluster, name, beyond(0))
    pod = lab.kubectl.json("get", "pod", "reports-train-1")
    variables = {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}
    ca = lab.kubectl.json("get", "configmap", "reports-config")["data"][CA_KEY]
    return Endpoint(variables[ENV_PROGRESS_URL], ca)


def token(lab: Lab, pod: str | None, audience: str = TOKEN_AUDIENCE) -> str:
    """A ServiceAccount token, bound to `pod` if one is named."""
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
    return lab.kubectl("create", "token", "default", f"--audience={audience}", *bound).strip()


def forged(step: int = FORGED_STEP) -> bytes:
    """A well-formed report that is not true."""
    return json.dumps({**json.loads(GOLDEN.read_text(encoding="utf-8")), "attempt": 1, "step": step}).encode()


def test_reports_of_strangers_and_nonsense_are_refused_and_change_nothing(lab: Lab, endpoint: Endpoint) -> None:
    own = token(lab, "reports-train-1")
    answers = {
        "no token": endpoint.post(forged(), None),
        "no such token": endpoint.post(forged(), "made-up"),
        "wrong audience": endpoint.post(forged(), token(lab, "reports-train-1", "https://kubernetes.default.svc")),
        "not bound to a pod": endpoint.post(forged(), token(lab, None)),
        "the prepare pod": endpoint.post(forged(), token(lab, "reports-prepare-1")),
        "another job's pod": endpoint.post(forged(), token(lab, "neighbour-train-1")),
        "too large": endpoint.post(b" " * (PROGRESS_BODY_LIMIT_BYTES + 1), own),
        "no JSON": endpoint.post(b"\xff nonsense", own),
        "JSON, but no report": endpoint.post(b'{"version": 1}', own),
        "a step that is no number": endpoint.post(forged().replace(b": 9149", b': "9149"'), own),
    }
    assert answers == {
        "no token": 401,
        "no such token": 401,
        "wrong audience": 401,
        "not bound to a pod": 401,
        "the prepare pod": 403,
        "another job's pod": 403,
        "too large": 413,
        "no JSON": 400,
        "JSON, but no report": 400,
        "a step that is no number": 400,
    }
    step = lab.kubectl.json("get", "sft", "reports")["status"]["progress"]["step"]
    status = reach(lab.cluster, "reports", beyond(step))
    assert status["phase"] == "Running"
    assert status["progress"]["maxSteps"] == STEPS
    assert status["progress"]["step"] != FORGED_STEP
    assert FORGED_STEP not in [checkpoint["step"] for checkpoint in status.get("checkpoints", [])]
    assert "checkpoint-20" not in json.dumps(status)


def test_the_token_of_the_training_pod_itself_is_believed_while_it_runs_only(lab: Lab, endpoint: Endpoint) -> None:
    let_go(lab.stack.volume("neighbour"))
    reach(lab.cluster, "neighbour", phase("Succeeded"))
    assert endpoint.post(forged(), token(lab, "neighbour-train-1")) == 403

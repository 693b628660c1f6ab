"""Pods on a node on which nothing happens by itself: a test sets what becomes of them, and reports as their trainer."""

import http.client
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from sftjob_contract.codec import to_json
from sftjob_contract.layout import OUTPUT_MODEL
from sftjob_contract.names import ENV_PROGRESS_URL, TOKEN_AUDIENCE, Stage
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import Checkpoint, HistoryPoint
from sftjob_dev.stack import Stack
from support.clients.kubectl import Kubectl
from support.fakes.decisions import STATS
from support.fakes.fake_cluster import START, an_outcome, ended, moment, running
from support.fakes.progress import a_progress


@dataclass(frozen=True)
class Puppets:
    """The Pods of a stack's default namespace."""

    stack: Stack
    kubectl: Kubectl

    def run(self, pod: str) -> None:
        """Its container runs."""
        self._set(pod, running(self._now()))

    def kill(self, pod: str) -> None:
        """Its container is killed."""
        self._set(pod, ended(137, seconds=self._now()))

    def finish(self, pod: str) -> None:
        """Its container succeeds, with the termination message of its stage."""
        prepared = an_outcome(Stage.PREPARE, prepared=STATS)
        trained = an_outcome(Stage.TRAIN, output=Output(path=OUTPUT_MODEL, metrics={"evalLoss": 1.5}))
        self._set(pod, ended(0, prepared if "-prepare-" in pod else trained, seconds=self._now()))

    def report(self, pod: str, step: int) -> None:
        """Its trainer reports `step`, a checkpoint there, and a curve."""
        job, attempt = pod.split("-train-")
        path = f"checkpoints/checkpoint-{step}"
        said = a_progress(
            step,
            int(attempt),
            seconds=self._now(),
            loss=2.5,
            checkpoints=(Checkpoint(step=step, path=path, bytes=1000, time=moment(self._now())),),
            history=(HistoryPoint(step=0, eval_loss=3.0), HistoryPoint(step=step, loss=2.5)),
        )
        environ = self.kubectl.json("get", "pod", pod)["spec"]["containers"][0]["env"]
        url = urlsplit(next(variable["value"] for variable in environ if variable["name"] == ENV_PROGRESS_URL))
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"]
        token = self.kubectl("create", "token", "default", f"--audience={TOKEN_AUDIENCE}", *bound).strip()
        context = ssl.create_default_context(cafile=self.stack.data / "progress-tls" / "ca.crt")
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=context, timeout=10)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection.request("POST", url.path, to_json(said), headers)
        status = connection.getresponse().status
        connection.close()
        assert status == 204, f"the report of {job} was answered with {status}"

    def _set(self, pod: str, status: dict[str, Any]) -> None:
        patch = json.dumps({"status": status})
        self.kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", patch)

    def _now(self) -> float:
        """Seconds since the start of the builders' clock."""
        return (datetime.now(UTC) - START).total_seconds()

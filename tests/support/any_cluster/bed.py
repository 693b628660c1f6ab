"""The test bed: namespaces of its own, the operator's release, a claim with a model and data, and helper Pods."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import yaml
from kubernetes import client, config
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from sftjob_contract.names import LABEL_JOB
from sftjob_dev.cluster import Cluster
from support.any_cluster.helper_pods import helper_pod, rows
from support.any_cluster.release import Release
from support.any_cluster.server import LONG_SECONDS, POLL_SECONDS, Server, wait_until
from support.clients.kubectl import Kubectl
from support.jobs.builders import JobBuilder, a_command, a_job
from support.jobs.small_jobs import INPUT, Status, sentences

HOSTNAME: Final = "kubernetes.io/hostname"
BAD_ROWS: Final = "typing-error.jsonl"
BAD_LINE: Final = 17
_ENDED: Final = ("Succeeded", "Failed")


@dataclass
class Bed:
    """Where the tests work. `namespace` has the jobs, `second` some more, `guarded` those that admission refuses.

    `open` admits Pods that see their node's processes. The claims of jobs, and so their Pods, stay on one `node`: a
    volume can often be used on one only.
    """

    server: Server
    release: Release
    prefix: str
    image: str
    storage_class: str | None
    node: str = ""

    @property
    def namespace(self) -> str:
        """See the class."""
        return f"{self.prefix}-a"

    @property
    def second(self) -> str:
        """See the class."""
        return f"{self.prefix}-b"

    @property
    def guarded(self) -> str:
        """See the class."""
        return f"{self.prefix}-guarded"

    @property
    def open(self) -> str:
        """See the class."""
        return f"{self.prefix}-open"

    def kubectl(self, namespace: str | None = None) -> Kubectl:
        """kubectl in a namespace, that of the jobs unless another is named."""
        return self.server.kubectl.within(namespace or self.namespace)

    def a_job(self, name: str, *, data: str = "train.jsonl") -> JobBuilder:
        """Full fine-tuning of the tiny model on the CPU, a loss for every step."""
        return self._placed(
            a_job(name, self.namespace)
            .model(f"pvc://{INPUT}/model")
            .dataset(f"pvc://{INPUT}/{data}", evaluation={"fraction": 0.1})
            .full()
            .training(per_device_batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-3)
            .training(max_steps=40, max_length=64, logging_steps=1, gradient_checkpointing=False)
            .resources(memory="1536Mi")
        )

    def a_command(self, name: str, program: str, *arguments: str, namespace: str | None = None) -> JobBuilder:
        """A job that runs a Python program of a few lines in the trainer's image."""
        command = ("python", "-c", program, *arguments)
        job = a_command(*command, name=name, namespace=namespace or self.namespace)
        return self._placed(job.set("image", self.image).resources(memory="256Mi"))

    def _placed(self, job: JobBuilder) -> JobBuilder:
        job = job.storage(size="1Gi").resources(gpus=0, cpu="100m", shared_memory="64Mi")
        if self.storage_class:
            job = job.storage(storage_class_name=self.storage_class)
        return job.scheduling(node_selector={HOSTNAME: self.node}) if self.node else job

    def apply(self, job: JobBuilder | Mapping[str, Any]) -> str:
        """What `kubectl apply` prints of a job or any other object."""
        manifest = job.manifest() if isinstance(job, JobBuilder) else dict(job)
        namespace = manifest["metadata"].get("namespace")
        return self.kubectl(namespace)("apply", "-f", "-", text=yaml.safe_dump(manifest))

    def status(self, job: str, namespace: str | None = None) -> Status:
        """The status of a job now."""
        status: Status = self.kubectl(namespace).json("get", "sft", job).get("status", {})
        return status

    def reach(
        self, job: str, condition: Callable[[Status], bool], namespace: str | None = None, *, ended: bool = False
    ) -> Status:
        """The first status of `job` that fulfils `condition`; fails the test when none does in time.

        A job that has ended otherwise is not waited for, unless `ended` says that more is to come.
        """
        deadline, status = time.monotonic() + LONG_SECONDS, Status()
        while (left := deadline - time.monotonic()) > 0:
            # A watch may break off at any time: the server restarts, a balancer loses patience.
            with suppress(ApiException, HTTPError, OSError):
                for body in Cluster(self.server.kubectl.kubeconfig, namespace or self.namespace).follow(
                    job, int(left) + 1
                ):
                    status = body.get("status", {})
                    if condition(status):
                        return status
                    if not ended and status.get("phase") in _ENDED:
                        raise AssertionError(f"{job} has ended:\n{self.account(job, namespace)}")
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"{job} is not there after {LONG_SECONDS} s:\n{self.account(job, namespace)}")

    def end(self, job: str, namespace: str | None = None) -> Status:
        """The status of a job that has ended, however it did."""
        return self.reach(job, lambda status: status.get("phase") in _ENDED, namespace)

    def account(self, job: str, namespace: str | None = None) -> str:
        """All that helps to understand what a job does."""
        kubectl = self.kubectl(namespace)
        parts = [
            kubectl.run("get", "sft", job, "-o", "yaml").stdout,
            kubectl.run("get", "pods,pvc,configmaps", "-l", f"{LABEL_JOB}={job}", "-o", "wide").stdout,
            kubectl.run("logs", "-l", f"{LABEL_JOB}={job}", "--tail=20", "--prefix").stdout,
            kubectl.run("get", "events", "--sort-by=.metadata.creationTimestamp").stdout,
            f"The operator's log:\n{self.release.log()}",
        ]
        return "\n".join(parts)

    def delete(self, *jobs: str, namespace: str | None = None) -> None:
        """Delete jobs, and wait until their Pods and claims are gone."""
        kubectl, seconds = self.kubectl(namespace), int(LONG_SECONDS)
        kubectl("delete", "sft", *jobs, "--ignore-not-found", timeout=LONG_SECONDS)
        selector = f"{LABEL_JOB} in ({','.join(jobs)})"
        for kind in ("pods", "pvc"):
            kubectl("wait", kind, "-l", selector, "--for=delete", f"--timeout={seconds}s", timeout=LONG_SECONDS + 10)

    def children(self, job: str, kinds: str, namespace: str | None = None) -> list[str]:
        """Kind and name of what a job has."""
        return self.kubectl(namespace)("get", kinds, "-l", f"{LABEL_JOB}={job}", "-o", "name").split()

    def run(self, name: str, program: str, *arguments: str, namespace: str | None = None, **options: Any) -> str:
        """What a helper Pod wrote that ran one of the programs to a good end."""
        kubectl = self.kubectl(namespace)
        if self.node:
            options = {**options, "pod": {"nodeSelector": {HOSTNAME: self.node}, **options.get("pod", {})}}
        pod = helper_pod(name, self.image, program, *arguments, **options)
        created = kubectl.run("create", "-f", "-", text=yaml.safe_dump(pod))
        assert created.returncode == 0, created.stderr
        try:
            phase = self._end_of_pod(name, namespace or self.namespace)
            log = kubectl("logs", name)
            assert phase == "Succeeded", f"{log}\n{kubectl('describe', 'pod', name)}"
            return log
        finally:
            self.node = self.node or self._hostname(kubectl, name)
            kubectl("delete", "pod", name, timeout=LONG_SECONDS)

    def fill(self) -> None:
        """Make the claim that jobs read from; the node that its volume is on becomes that of all jobs."""
        claim: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        if self.storage_class:
            claim["storageClassName"] = self.storage_class
        for name in (INPUT, "shared"):
            metadata = {"name": name, "namespace": self.namespace}
            self.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim})
        texts = sentences(400)
        bad = rows(*texts[: BAD_LINE - 1]) + rows("a typing error", column="txt") + rows(*texts[BAD_LINE:20])
        files = json.dumps({"train.jsonl": rows(*texts), BAD_ROWS: bad})
        self.run("fill", "fill.py", claims={"TARGET": INPUT, "SHARED": "shared"}, env={"FILES": files})

    def _end_of_pod(self, name: str, namespace: str) -> str:
        """Phase of a Pod that has ended."""
        core = client.CoreV1Api(config.new_client_from_config(str(self.server.kubectl.kubeconfig)))

        def ended() -> str:
            phase = str(core.read_namespaced_pod(name, namespace).status.phase)
            return phase if phase in _ENDED else ""

        return wait_until(ended, lambda: self.kubectl(namespace)("describe", "pod", name))

    def _hostname(self, kubectl: Kubectl, pod: str) -> str:
        node = kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
        return str(self.server.kubectl.json("get", "node", node)["metadata"]["labels"][HOSTNAME]) if node else ""

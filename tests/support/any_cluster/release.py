"""How the operator is installed: by Helm everywhere. A cluster runs its Deployment; for the sandbox, this does."""

import os
import subprocess
import sys
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sftjob_dev.stack import free_port, log_end
from support.any_cluster.server import LONG_SECONDS, Server, wait_until
from support.clients.helm import CHART, Helm

NAME: Final = "sftjob-operator"
"""Of the release, and so of every object in it; the namespace tells it from others."""
_STOP_SECONDS: Final = 30
Values = dict[str, Any]


@dataclass
class Release:
    """The operator as a release of the chart. `values` are those of every revision; a method may add some."""

    server: Server
    helm: Helm
    namespace: str
    values: Values

    def install(self) -> None:
        """`helm install`, and wait until the operator is ready."""
        self._act("install", chart=str(CHART), values=self.values)
        self._roll_out()

    def upgrade(self, **values: Any) -> None:
        """`helm upgrade`, and wait until the new operator is ready."""
        self._act("upgrade", chart=str(CHART), values={**self.values, **values})
        self._roll_out()

    def rollback(self) -> None:
        """`helm rollback` to the revision before, and wait until its operator is ready."""
        self._act("rollback")
        self._roll_out()

    def uninstall(self) -> None:
        """`helm uninstall`."""
        self._act("uninstall")

    def restart(self) -> None:
        """Delete the operator's Pod, and wait until the next one is ready."""
        self._kubectl("delete", "pod", "-l", f"app.kubernetes.io/instance={NAME}", timeout=LONG_SECONDS)
        self._roll_out()

    def objects(self) -> list[dict[str, Any]]:
        """What the chart renders."""
        return self.helm.objects(self.values, name=NAME, namespace=self.namespace)

    def log(self) -> str:
        """The end of the operator's log."""
        return self._kubectl.run("logs", f"deployment/{NAME}", "--tail=30").stdout

    @property
    def metrics_url(self) -> str:
        """What a Prometheus scrapes, as Pods reach it."""
        return f"http://{NAME}.{self.namespace}.svc:8081/metrics"

    @property
    def _kubectl(self) -> Any:
        return self.server.kubectl.within(self.namespace)

    def _act(self, action: str, **arguments: Any) -> None:
        self.helm.release(self.server.kubectl.kubeconfig, self.namespace, action, name=NAME, **arguments)

    def _roll_out(self) -> None:
        seconds = int(LONG_SECONDS)
        done = self._kubectl.run("rollout", "status", f"deployment/{NAME}", f"--timeout={seconds}s", timeout=seconds)
        assert done.returncode == 0, f"{done.stderr}\n{self._kubectl.run('describe', 'pods').stdout}\n{self.log()}"


@dataclass
class SandboxRelease(Release):
    """The same beside the sandbox, which keeps a Deployment and runs none: its Pod is a process of this machine.

    The process has the environment that the Deployment gives its container, but addresses of the loopback interface.
    """

    data: Path
    _process: subprocess.Popen[bytes] | None = None
    _ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("PROGRESS", "LIVENESS", "METRICS")}
    )

    def restart(self) -> None:
        """See Release."""
        self._roll_out()

    def uninstall(self) -> None:
        """See Release."""
        self._stop()
        super().uninstall()

    def log(self) -> str:
        """See Release."""
        return log_end(self._log_file, 30)

    @property
    def metrics_url(self) -> str:
        """See Release."""
        return f"http://127.0.0.1:{self._ports['METRICS']}/metrics"

    @property
    def _log_file(self) -> Path:
        return self.data / "operator.log"

    def _roll_out(self) -> None:
        self._stop()
        environ = {**os.environ, **self._container_environment()}
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sftjob_operator"], env=environ, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._is_ready, lambda: f"the operator is not ready: {self.log()}")

    def _container_environment(self) -> dict[str, str]:
        pod = self._kubectl.json("get", "deployment", NAME)["spec"]["template"]["spec"]
        fields = {"metadata.name": NAME, "metadata.namespace": self.namespace, "metadata.uid": f"{NAME}-{os.getpid()}"}
        given = {
            entry["name"]: entry.get("value", "")
            if "valueFrom" not in entry
            else fields.get(entry["valueFrom"]["fieldRef"]["fieldPath"], NAME)
            for entry in pod["containers"][0]["env"]
        }
        own = {f"SFTJOB_{name}_ADDRESS": f"127.0.0.1:{port}" for name, port in self._ports.items()}
        url = {"SFTJOB_PROGRESS_URL": f"https://127.0.0.1:{self._ports['PROGRESS']}"}
        return {**given, **own, **url, "KUBECONFIG": str(self.server.kubectl.kubeconfig), "PYTHONUNBUFFERED": "1"}

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the operator ended: {self.log()}"
        with suppress(OSError), urllib.request.urlopen(self._health_url, timeout=1) as answer:
            return bool(answer.status == 200)
        return False

    @property
    def _health_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['LIVENESS']}/healthz"

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

"""Runs one container of a Pod: gets its image and configuration, starts it, restarts it as the Pod's policy says."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sftjob_sandbox.node.container import Container, StartError
from sftjob_sandbox.node.environment import ConfigError
from sftjob_sandbox.node.images import Image, find_image, pull_error
from sftjob_sandbox.node.launch import Launch, Surroundings, prepare, termination_message
from sftjob_sandbox.node.payload import MountError
from sftjob_sandbox.node.probes import Listener, Prober, watch_probes
from sftjob_sandbox.node.record import PodRecord
from sftjob_sandbox.node.settings import NodeSettings
from sftjob_sandbox.node.status import Running, Terminated, Waiting
from sftjob_sandbox.node.timing import Backoff, Wakeup, go_duration

_log = logging.getLogger(__name__)

_NEVER_STARTED: Final = "1970-01-01T00:00:00Z"
_START_FAILED: Final = 128
_DEFAULT_GRACE_SECONDS: Final = 30
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass
class Signals:
    """What the containers of one Pod are told together."""

    stopping: bool = False
    killing: bool = False
    wakeup: Wakeup = field(default_factory=Wakeup)

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until the Pod is to stop."""
        end = asyncio.get_running_loop().time() + seconds
        while not self.stopping and (left := end - asyncio.get_running_loop().time()) > 0:
            await self.wakeup.wait(left)

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until something changes."""
        if not self.stopping:
            await self.wakeup.wait(seconds)


class ContainerRunner:
    """One container of one Pod. `surroundings` makes from an image what the container is given."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        record: PodRecord,
        signals: Signals,
        settings: NodeSettings,
        surroundings: Callable[[Image], Surroundings],
    ) -> None:
        self._spec = spec
        self._name: str = spec["name"]
        self._record = record
        self._signals = signals
        self._settings = settings
        self._surroundings = surroundings
        self._container: Container | None = None
        self._restart_backoff = Backoff(settings.backoff_seconds, settings.max_backoff_seconds, start_seconds=0)
        self._pull_backoff = Backoff(settings.backoff_seconds, settings.max_backoff_seconds)

    async def run(self) -> bool:
        """Run the container until it needs no further run; True if it ended well."""
        clock = asyncio.get_running_loop().time
        while not self._signals.stopping:
            image = await self._pull()
            launch = await self._configure(image) if image else None
            if not image or not launch:
                continue
            started = clock()
            ended = await self._run_once(image, launch)
            if clock() - started > self._settings.backoff_reset_seconds:
                self._restart_backoff.reset()
            if not self._restarts_after(ended.exit_code):
                return ended.exit_code == 0
            await self._back_off(ended)
        return False

    def terminate(self) -> None:
        """Ask the container to stop, if it runs."""
        if self._container:
            self._record.event("Normal", "Killing", f"Stopping container {self._name}")
            self._container.terminate()

    def kill(self) -> None:
        """End the container, if it runs."""
        if self._container:
            self._container.kill()

    def _restarts_after(self, exit_code: int) -> bool:
        policy = self._record.pod["spec"].get("restartPolicy", "Always")
        if self._record.view(self._name).init and policy == "Always":
            policy = "OnFailure"
        return policy == "Always" or (policy == "OnFailure" and exit_code != 0)

    async def _pull(self) -> Image | None:
        """The image, or None after having waited for a while."""
        reference = self._spec.get("image", "")
        image = find_image(self._settings.images, reference)
        if image:
            self._pull_backoff.reset()
            self._record.event("Normal", "Pulled", f'Container image "{reference}" already present on machine')
            return image
        if self._spec.get("imagePullPolicy") == "Never":
            message = f'Container image "{reference}" is not present with pull policy of Never'
            self._record.event("Warning", "ErrImageNeverPull", message)
            self._wait_for("ErrImageNeverPull", message, "ErrImageNeverPull")
            await self._signals.pause(self._settings.retry_seconds)
            return None
        error = pull_error(self._settings.images, reference)
        self._record.event("Normal", "Pulling", f'Pulling image "{reference}"')
        self._record.event("Warning", "Failed", f'Failed to pull image "{reference}": {error}')
        self._wait_for("ErrImagePull", error, "ErrImagePull")
        await self._signals.pause(self._settings.retry_seconds)
        if not self._signals.stopping:
            backing_off = f'Back-off pulling image "{reference}"'
            self._record.event("Normal", "BackOff", backing_off)
            self._wait_for("ImagePullBackOff", f"{backing_off}: ErrImagePull: {error}", "ImagePullBackOff")
        await self._signals.sleep(self._pull_backoff.take())
        return None

    async def _configure(self, image: Image) -> Launch | None:
        """The container's command and files, or None after having waited for a while."""
        try:
            return prepare(self._spec, self._surroundings(image))
        except (ConfigError, MountError) as error:
            self._wait_for("CreateContainerConfigError", str(error), str(error))
        await self._signals.pause(self._settings.retry_seconds)
        return None

    def _wait_for(self, reason: str, message: str, error: str) -> None:
        self._record.event("Warning", "Failed", f"Error: {error}")
        view = self._record.view(self._name)
        last = view.state if isinstance(view.state, Terminated) else view.last
        self._record.update(self._name, state=Waiting(reason, message), last=last, ready=False, started=False)

    async def _run_once(self, image: Image, launch: Launch) -> Terminated:
        view = self._record.view(self._name)
        container_id = f"sandbox://{secrets.token_hex(32)}"
        identity = {
            "container_id": container_id,
            "image_id": image.image_id,
            "restart_count": view.restart_count + 1 if view.container_id else 0,
            "last": view.state if isinstance(view.state, Terminated) else view.last,
        }
        self._record.event("Normal", "Created", f"Created container: {self._name}")
        try:
            container = await Container.start(launch.command, launch.log)
        except StartError as error:
            self._record.event("Warning", "Failed", f"Error: {error}")
            ended = Terminated(
                exit_code=_START_FAILED,
                reason="StartError",
                message=str(error),
                started_at=_NEVER_STARTED,
                finished_at=self._record.now(),
                container_id=container_id,
            )
            self._record.update(self._name, state=ended, ready=False, started=False, **identity)
            return ended
        self._record.event("Normal", "Started", f"Started container {self._name}")
        started_at = self._record.now()
        started = not self._spec.get("startupProbe")
        ready = started and not self._spec.get("readinessProbe")
        self._record.update(self._name, state=Running(started_at), ready=ready, started=started, **identity)
        ended = await self._until_end(container, launch, started_at)
        self._record.update(self._name, state=ended, ready=False, started=False)
        return ended

    async def _until_end(self, container: Container, launch: Launch, started_at: str) -> Terminated:
        self._container = container
        if self._signals.killing:
            self.kill()
        elif self._signals.stopping:
            self.terminate()
        probes = asyncio.create_task(self._probe(container, launch))
        try:
            ended = await container.wait()
        finally:
            self._container = None
            probes.cancel()
            await asyncio.wait([probes])
        reason = "OOMKilled" if ended.out_of_memory else "Error" if ended.code else "Completed"
        return Terminated(
            exit_code=ended.code,
            reason=reason,
            message=termination_message(self._spec, launch, ended),
            started_at=started_at,
            finished_at=self._record.now(),
            container_id=self._record.view(self._name).container_id,
        )

    async def _probe(self, container: Container, launch: Launch) -> None:
        if not any(self._spec.get(probe) for probe in _PROBES):
            return
        grace = self._record.pod["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS)

        def kill(probe: str) -> None:
            message = f"Container {self._name} failed {probe} probe, will be restarted"
            self._record.event("Normal", "Killing", message)
            container.terminate()
            asyncio.get_running_loop().call_later(grace, container.kill)

        listener = Listener(
            on_started=lambda: self._record.update(self._name, started=True),
            on_ready=lambda ready: self._record.update(self._name, ready=ready),
            on_failure=lambda message: self._record.event("Warning", "Unhealthy", message),
            on_dead=kill,
        )
        try:
            await watch_probes(self._spec, Prober(self._spec, launch, self._settings.address).check, listener)
        except Exception:  # noqa: BLE001 -- a probe that breaks must not look like a healthy container
            _log.exception("Probing %s of %s failed", self._name, self._record.reference)
            self._record.update(self._name, ready=False)

    async def _back_off(self, ended: Terminated) -> None:
        seconds = self._restart_backoff.take()
        if not seconds or self._signals.stopping:
            return
        self._record.event(
            "Warning", "BackOff", f"Back-off restarting failed container {self._name} in pod {self._record.reference}"
        )
        message = (
            f"back-off {go_duration(seconds)} restarting failed container={self._name} pod={self._record.reference}"
        )
        self._record.update(self._name, state=Waiting("CrashLoopBackOff", message), last=ended)
        await self._signals.sleep(seconds)

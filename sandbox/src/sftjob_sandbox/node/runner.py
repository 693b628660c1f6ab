"""Runs one container of a Pod: gets its image and configuration, starts it and reports its end."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sftjob_sandbox.node.containers.environment import ConfigError
from sftjob_sandbox.node.containers.launch import (
    Image,
    Launch,
    Surroundings,
    find_image,
    prepare,
    pull_error,
    termination_message,
)
from sftjob_sandbox.node.containers.process import Container, StartError
from sftjob_sandbox.node.containers.volumes import MountError
from sftjob_sandbox.node.record import PodRecord
from sftjob_sandbox.node.settings import NodeSettings
from sftjob_sandbox.node.status import Running, Terminated, Waiting

_NEVER_STARTED: Final = "1970-01-01T00:00:00Z"
_START_FAILED: Final = 128


@dataclass
class Signals:
    """What stops or wakes all containers of one Pod."""

    stopping: bool = False
    killing: bool = False
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        """Wake all that wait now: something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def changed(self, limit_seconds: float) -> None:
        """Wait for the next `notify`, at most for the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                await self._event.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait until the time is over or the Pod is to stop."""
        end = asyncio.get_running_loop().time() + seconds
        while not self.stopping and (left := end - asyncio.get_running_loop().time()) > 0:
            await self.changed(left)

    async def pause(self, seconds: float) -> None:
        """Wait until the time is over or something changes."""
        if not self.stopping:
            await self.changed(seconds)


class ContainerRunner:
    """One container of one Pod. `surroundings` makes what the container gets besides its spec, from its image."""

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
        self._backoff_seconds = settings.backoff_seconds

    async def run(self) -> None:
        """Run the container once, as soon as its image and configuration are there."""
        while not self._signals.stopping:
            image = await self._pull()
            launch = await self._configure(image) if image else None
            if image and launch:
                await self._run_once(image, launch)
                return

    def terminate(self) -> None:
        """Ask the container to stop, if it is running."""
        if self._container:
            self._record.event("Normal", "Killing", f"Stopping container {self._name}")
            self._container.terminate()

    def kill(self) -> None:
        """End the container, if it is running."""
        if self._container:
            self._container.kill()

    async def _pull(self) -> Image | None:
        """The image, or None after a wait."""
        reference = self._spec.get("image", "")
        image = find_image(self._settings.images, reference)
        if image:
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
        await self._signals.sleep(self._backoff_seconds)
        self._backoff_seconds = min(2 * self._backoff_seconds, self._settings.max_backoff_seconds)
        return None

    async def _configure(self, image: Image) -> Launch | None:
        """The container's command and files, or None after a wait."""
        try:
            return prepare(self._spec, self._surroundings(image))
        except (ConfigError, MountError) as error:
            self._wait_for("CreateContainerConfigError", str(error), str(error))
        await self._signals.pause(self._settings.retry_seconds)
        return None

    def _wait_for(self, reason: str, message: str, error: str) -> None:
        self._record.event("Warning", "Failed", f"Error: {error}")
        self._record.update(self._name, state=Waiting(reason, message))

    async def _run_once(self, image: Image, launch: Launch) -> None:
        identity = {"container_id": f"sandbox://{secrets.token_hex(32)}", "image_id": image.image_id}
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
                container_id=identity["container_id"],
            )
            self._record.update(self._name, state=ended, **identity)
            return
        self._record.event("Normal", "Started", f"Started container {self._name}")
        started_at = self._record.now()
        self._record.update(self._name, state=Running(started_at), **identity)
        ended = await self._until_end(container, launch, started_at)
        self._record.update(self._name, state=ended)

    async def _until_end(self, container: Container, launch: Launch, started_at: str) -> Terminated:
        self._container = container
        if self._signals.killing:
            self.kill()
        elif self._signals.stopping:
            self.terminate()
        try:
            ended = await container.wait()
        finally:
            self._container = None
        reason = "OOMKilled" if ended.out_of_memory else "Error" if ended.code else "Completed"
        return Terminated(
            exit_code=ended.code,
            reason=reason,
            message=termination_message(self._spec, launch, ended),
            started_at=started_at,
            finished_at=self._record.now(),
            container_id=self._record.view(self._name).container_id,
        )

"""The life of one Pod on the node, from its first status to the removal of its files.

Nothing here is cancelled in order to stop a Pod: stopping sets a flag, terminates what runs and wakes what waits, and
the life below comes to its own end, so that every end of a container is seen and written down.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping
from typing import Any, Final

from sftjob_sandbox.apimachinery.objects import Object, is_deleting, name_of, namespace_of, uid_of
from sftjob_sandbox.node.admission import unsupported
from sftjob_sandbox.node.api import NodeApi
from sftjob_sandbox.node.capacity import visible_devices
from sftjob_sandbox.node.containers.environment import PodContext
from sftjob_sandbox.node.containers.launch import Image, Surroundings
from sftjob_sandbox.node.containers.paths import PodPaths
from sftjob_sandbox.node.containers.volumes import MountError, PodVolumes
from sftjob_sandbox.node.record import PodRecord
from sftjob_sandbox.node.runner import ContainerRunner, Signals
from sftjob_sandbox.node.settings import NodeSettings

_log = logging.getLogger(__name__)

_DEFAULT_GRACE_SECONDS: Final = 30
_REMOVED_GRACE_SECONDS: Final = 2  # the kubelet's minimum, for a Pod that was deleted by force


class PodWorker:
    """Runs one Pod. `gpus` are its slots; `on_end` is called when it uses no resources of the node."""

    def __init__(
        self,
        api: NodeApi,
        settings: NodeSettings,
        pod: Object,
        *,
        gpus: tuple[int, ...],
        allocatable: Mapping[str, Any],
        on_end: Callable[[str], None],
    ) -> None:
        self._api = api
        self._settings = settings
        self._gpus = gpus
        self._allocatable = allocatable
        self._on_end = on_end
        self._record = PodRecord(api, settings, pod)
        self._paths = PodPaths.of(settings.data, pod)
        self._volumes = PodVolumes(pod, self._paths, settings.data, self._record.issue_token, settings.clock)
        self._signals = Signals()
        self._kill_timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._deleted = asyncio.Event()
        self._runners = [self._runner(container) for container in pod["spec"]["containers"]]

    @property
    def pod(self) -> Object:
        """The Pod as last seen."""
        return self._record.pod

    async def run(self) -> None:
        """Run the Pod to its end, then wait for its deletion and clean up."""
        if problem := unsupported(self.pod):
            self._record.reject(problem)
        else:
            await self._run_to_end()
        self._on_end(uid_of(self.pod))
        self._ended.set()
        await self._deleted.wait()
        shutil.rmtree(self._paths.root, ignore_errors=True)
        if not self._record.lost:
            self._api.finalize_pod(namespace_of(self.pod), name_of(self.pod), uid_of(self.pod))

    def observe(self, pod: Object) -> None:
        """The object has changed."""
        self._record.pod = pod
        if is_deleting(pod):
            grace = pod["metadata"].get("deletionGracePeriodSeconds")
            self.stop(self._grace_seconds if grace is None else grace)
            self._deleted.set()

    def removed(self) -> None:
        """The object is gone without having waited for the node."""
        self._record.lost = True
        self.stop(_REMOVED_GRACE_SECONDS)
        self._deleted.set()

    def refresh(self) -> None:
        """A ConfigMap or Secret that the Pod may use has changed."""
        self._signals.notify()

    async def shut_down(self, grace_seconds: float) -> None:
        """Stop the Pod because the node stops, with at most this grace, and wait for its end."""
        self.stop(min(grace_seconds, self._grace_seconds))
        await self._ended.wait()

    def stop(self, grace_seconds: float) -> None:
        """Stop the containers; a second call changes anything only with a shorter grace."""
        loop = asyncio.get_running_loop()
        kill_at = loop.time() + grace_seconds
        if self._ended.is_set() or (self._kill_timer and self._kill_timer.when() <= kill_at):
            return
        if self._kill_timer:
            self._kill_timer.cancel()
        self._kill_timer = loop.call_at(kill_at, self._kill)
        if not self._signals.stopping:
            self._signals.stopping = True
            for runner in self._runners:
                runner.terminate()
            self._signals.notify()

    @property
    def _grace_seconds(self) -> float:
        grace = self.pod["spec"].get("terminationGracePeriodSeconds")
        return _DEFAULT_GRACE_SECONDS if grace is None else float(grace)

    def _kill(self) -> None:
        self._signals.killing = True
        for runner in self._runners:
            runner.kill()

    async def _run_to_end(self) -> None:
        try:
            await self._live()
        except Exception:  # noqa: BLE001 -- whatever it is, the Pod must not stay "Running" for ever
            _log.exception("Pod %s: the node failed", self._record.reference)
            self._record.fail("The sandbox's node failed; see its log")
        if self._kill_timer:
            self._kill_timer.cancel()
        self._record.end()
        self._remove_all_but_logs()

    async def _live(self) -> None:
        self._record.publish()
        if not await self._mount():
            return
        self._record.set_up()
        async with asyncio.TaskGroup() as group:
            refreshing = group.create_task(self._keep_volumes_fresh())
            async with asyncio.TaskGroup() as running:
                for runner in self._runners:
                    running.create_task(runner.run())
            refreshing.cancel()

    async def _mount(self) -> bool:
        while not self._signals.stopping:
            if self._refresh_volumes():
                return True
            await self._signals.pause(self._settings.retry_seconds)
        return False

    async def _keep_volumes_fresh(self) -> None:
        while True:
            await self._signals.changed(self._settings.resync_seconds)
            self._refresh_volumes()

    def _refresh_volumes(self) -> bool:
        complete = True
        for name in self._volumes.names:
            try:
                self._volumes.set_up(name, self._context)
            except (MountError, OSError) as error:
                message = f'MountVolume.SetUp failed for volume "{name}" : {error}'
                self._record.event("Warning", "FailedMount", message)
                complete = False
        return complete

    @property
    def _context(self) -> PodContext:
        return PodContext(pod=self.pod, lookup=self._record.lookup, allocatable=self._allocatable)

    def _runner(self, spec: Mapping[str, Any]) -> ContainerRunner:
        def surroundings(image: Image) -> Surroundings:
            resource = self._settings.gpu_resource
            return Surroundings(
                context=self._context,
                paths=self._paths,
                volumes={name: self._volumes.directory(name) for name in self._volumes.names},
                image=image,
                visible_devices=visible_devices(self.pod, spec["name"], self._gpus, resource),
                poll_seconds=self._settings.memory_poll_seconds,
            )

        return ContainerRunner(spec, self._record, self._signals, self._settings, surroundings)

    def _remove_all_but_logs(self) -> None:
        """Volumes that live with the Pod, tokens among them, and the containers' trees."""
        for path in self._paths.root.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)

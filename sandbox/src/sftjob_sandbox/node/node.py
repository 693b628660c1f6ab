"""The node: watches the API, places Pods, and keeps a worker for each one that it runs."""

import asyncio
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from sftjob_sandbox.apimachinery.objects import Object, claims_of, is_deleting, name_of, namespace_of, timestamp, uid_of
from sftjob_sandbox.node.api import NodeApi
from sftjob_sandbox.node.capacity import GpuSlots, pod_requests
from sftjob_sandbox.node.claims import Claims
from sftjob_sandbox.node.containers.paths import pods_directory
from sftjob_sandbox.node.node_object import node_object
from sftjob_sandbox.node.scheduler import Scheduler
from sftjob_sandbox.node.settings import NodeSettings
from sftjob_sandbox.node.status import TERMINAL_PHASES, rejected_status
from sftjob_sandbox.node.worker import PodWorker

_log = logging.getLogger(__name__)


class Node:
    """An async context manager: the node runs inside, and at the end every Pod is stopped."""

    def __init__(self, api: NodeApi, settings: NodeSettings) -> None:
        images = {reference: Path(directory).absolute() for reference, directory in settings.images.items()}
        self._settings = replace(settings, data=settings.data.absolute(), images=images)
        self._api = api
        self._object = node_object(self._settings)
        self._claims = Claims(api, self._settings.data, self._uses_claim)
        self._scheduler = Scheduler(api, self._object, self._claims.get, settings.clock)
        self._gpus = GpuSlots(settings.gpus)
        self._workers: dict[str, PodWorker] = {}
        self._worker_tasks: set[asyncio.Task[None]] = set()
        self._live: set[str] = set()
        self._place = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Register the node and begin to run Pods; files of Pods of an earlier run are removed."""
        pods = pods_directory(self._settings.data)
        shutil.rmtree(pods, ignore_errors=True)
        pods.mkdir(mode=0o700, parents=True)  # it holds Secrets and tokens
        self._api.register_node(self._object)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_report)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every Pod, with a short grace, and wait until no process is left."""
        tasks = [*self._worker_tasks, *([self._task] if self._task else [])]
        if self._task:
            self._task.cancel()
        grace = self._settings.shutdown_grace_seconds
        await asyncio.gather(*(worker.shut_down(grace) for worker in self._workers.values()))
        for task in self._worker_tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_pods())
            group.create_task(self._watch_claims())
            group.create_task(self._watch_node())
            group.create_task(self._watch_configuration("configmaps"))
            group.create_task(self._watch_configuration("secrets"))
            group.create_task(self._place_pods())

    async def _watch_pods(self) -> None:
        async for change, pod in self._api.watch_from_start("pods"):
            if change == "DELETED":
                self._pod_removed(pod)
            elif not pod["spec"].get("nodeName"):
                self._scheduler.see(pod)
                self._place.set()
            elif pod["spec"]["nodeName"] == name_of(self._object):
                self._pod_changed(pod)

    async def _watch_claims(self) -> None:
        async for change, claim in self._api.watch_from_start("persistentvolumeclaims"):
            if change == "DELETED":
                self._claims.removed(claim)
            else:
                self._claims.get(namespace_of(claim), name_of(claim))
            self._place.set()

    async def _watch_node(self) -> None:
        async for change, node in self._api.watch_from_start("nodes"):
            if change != "DELETED" and name_of(node) == name_of(self._object):
                self._scheduler.node = node
                self._place.set()

    async def _watch_configuration(self, resource: str) -> None:
        async for _, changed in self._api.watch_from_start(resource):
            for worker in self._workers.values():
                if namespace_of(worker.pod) == namespace_of(changed):
                    worker.refresh()

    async def _place_pods(self) -> None:
        while True:
            await self._place.wait()
            self._place.clear()
            self._scheduler.place()

    def _pod_removed(self, pod: Object) -> None:
        uid = uid_of(pod)
        if worker := self._workers.get(uid):
            worker.removed()
        if uid not in self._live:
            self._scheduler.forget(uid)
        self._place.set()

    def _pod_changed(self, pod: Object) -> None:
        uid = uid_of(pod)
        if worker := self._workers.get(uid):
            worker.observe(pod)
        elif is_deleting(pod):
            self._scheduler.forget(uid)
            self._api.finalize_pod(namespace_of(pod), name_of(pod), uid)
        elif (pod.get("status") or {}).get("phase") in TERMINAL_PHASES:
            return
        elif short := self._scheduler.admit(pod):
            message = f"Node didn't have enough resource: {short[0]}"
            status = rejected_status(pod, f"OutOf{short[0]}", message, timestamp(self._settings.clock()))
            self._api.update_status("pods", namespace_of(pod), name_of(pod), uid, status)
        else:
            self._start(pod)

    def _start(self, pod: Object) -> None:
        uid = uid_of(pod)
        gpus = int(pod_requests(pod).get(self._settings.gpu_resource, 0))
        worker = PodWorker(
            self._api,
            self._settings,
            pod,
            gpus=self._gpus.lend(uid, gpus),
            allocatable=self._object["status"]["allocatable"],
            on_end=self._pod_ended,
        )
        self._workers[uid] = worker
        self._live.add(uid)
        task = asyncio.create_task(worker.run())
        self._worker_tasks.add(task)
        task.add_done_callback(lambda done: self._worker_done(uid, done))

    def _pod_ended(self, uid: str) -> None:
        """Its processes are gone: what it took is free for others."""
        self._live.discard(uid)
        self._gpus.take_back(uid)
        self._scheduler.forget(uid)
        self._claims.sweep()
        self._place.set()

    def _worker_done(self, uid: str, task: asyncio.Task[None]) -> None:
        self._worker_tasks.discard(task)
        self._workers.pop(uid, None)
        _report(task)

    def _uses_claim(self, namespace: str, claim: str) -> bool:
        pods = (self._workers[uid].pod for uid in self._live)
        return any(namespace_of(pod) == namespace and claim in claims_of(pod) for pod in pods)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.critical("The node has failed", exc_info=error)

"""The cluster's state in one process: storage, its controllers, and what the node needs of it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Clock, Object, name_of, timestamp, uid_of, utc_now
from sftjob_sandbox.cluster.tokens import TokenAuthority
from sftjob_sandbox.controllers.claims import ClaimProtection
from sftjob_sandbox.controllers.definitions import DefinitionController
from sftjob_sandbox.controllers.events import EventRecorder, Note
from sftjob_sandbox.controllers.garbage import GarbageCollector
from sftjob_sandbox.controllers.namespaces import NamespaceController
from sftjob_sandbox.storage.collections import Change, Entry, Storage
from sftjob_sandbox.storage.deletion import DeleteOptions
from sftjob_sandbox.storage.resources import Catalog
from sftjob_sandbox.storage.strategies import conflict
from sftjob_sandbox.storage.writes import Target, WriteOptions, Writer

_KUBELET: Final = WriteOptions(manager="kubelet", field_validation="Ignore")
_ADMINISTRATOR: Final = WriteOptions(manager="sftjob-sandbox", field_validation="Strict")


class Store:
    """Everything that the server knows. All calls belong to one event loop. Implements the node's NodeApi."""

    def __init__(self, *, ca: str, clock: Clock = utc_now) -> None:
        """`ca` is the certificate authority (PEM) that every namespace's kube-root-ca.crt holds."""
        self.clock = clock
        # Revisions begin with the time in milliseconds, so that those of an earlier run are recognized as too old.
        self.storage = Storage(int(clock().timestamp() * 1000))
        self.catalog = Catalog()
        self.writer = Writer(self.storage, clock)
        self.tokens = TokenAuthority(self._lookup, clock)
        self._events = EventRecorder(self.storage, self.writer, self.catalog.resources["events"], clock)
        GarbageCollector(self.storage, self.catalog, self.writer)
        NamespaceController(self.storage, self.catalog, self.writer, ca)
        DefinitionController(self.storage, self.catalog, self.writer, clock)
        ClaimProtection(self.storage, self.writer)
        for namespace in ("default", "kube-system"):
            self.create({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}})

    def create(self, obj: Object) -> Object:
        """Create an object as the administrator would, in the namespace that it names. Raises ApiError."""
        group, _, version = obj["apiVersion"].rpartition("/")
        resource = self.catalog.of_kind(group, obj["kind"])
        served = resource.served(version) if resource else None
        if resource is None or served is None:
            raise ApiError(404, "NotFound", f"no matches for kind {obj['kind']!r} in version {obj['apiVersion']!r}")
        namespace = obj["metadata"].get("namespace", "default") if resource.namespaced else ""
        target = Target(resource=resource, version=served, namespace=namespace)
        return self.writer.create(target, obj, _ADMINISTRATOR).entry.object

    def get(self, resource: str, namespace: str | None, name: str) -> Object:
        """One object. Raises ApiError 404."""
        return self.writer.live(self._target(resource, namespace, name)).object

    def objects(self, resource: str, namespace: str | None = None) -> list[Object]:
        """All objects of a resource, ordered by namespace and name."""
        entries = self.storage.collection(resource).entries
        return [entry.object for key, entry in sorted(entries.items()) if namespace is None or key[0] == namespace]

    async def watch_from_start(self, resource: str) -> AsyncIterator[tuple[str, Object]]:
        """ADDED for every object that exists, then every change as it happens; ends when the store is closed."""
        collection, position = self.storage.collection(resource), self.storage.revision
        for obj in self.objects(resource):
            yield "ADDED", obj
        while not collection.closed:
            await collection.changed_after(position)
            changes: list[Change] = collection.changes_after(position)
            position = self.storage.revision
            for change in changes:
                yield change.type, change.entry.object

    def update_status(self, resource: str, namespace: str | None, name: str, uid: str, status: Object) -> Object:
        """Replace the whole status. Raises ApiError 404, 409 if the object is another one, 422."""
        live = self._known(resource, namespace, name, uid)
        target = self._target(resource, namespace, name, status=True)
        return self.writer.update(target, {**live.object, "status": status}, _KUBELET).entry.object

    def bind_pod(self, namespace: str, name: str, uid: str, node: str) -> Object:
        """Set spec.nodeName. Raises ApiError 404, 409 if it is another Pod or one that has a node."""
        pod = self._known("pods", namespace, name, uid).object
        if assigned := pod["spec"].get("nodeName"):
            text = f'pod {name} is already assigned to node "{assigned}"'
            raise conflict(self.catalog.resources["pods"], name, text, called="pods/binding")
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(self.clock())}
        others = [c for c in pod["status"].get("conditions") or () if c["type"] != "PodScheduled"]
        status = {**pod["status"], "conditions": [*others, {"lastProbeTime": None, **scheduled}]}
        self.writer.amend(
            "pods", (namespace, name), {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": status}
        )
        return self.get("pods", namespace, name)

    def finalize_pod(self, namespace: str, name: str, uid: str) -> None:
        """The Pod's processes are gone: remove the object. Raises ApiError 404, 409 if it is another Pod."""
        options = DeleteOptions(grace_period_seconds=0, uid=uid)
        self.writer.delete(self._target("pods", namespace, name), options)

    def record_event(self, regarding: Object, *, type: str, reason: str, message: str, component: str) -> None:  # noqa: A002 -- the field's name
        """Record a core/v1 Event about an object; repeated ones are counted."""
        self._events.record(regarding, Note(type, reason, message, component))

    def issue_token(
        self, namespace: str, service_account: str, *, audiences: list[str], expiration_seconds: int, pod: Object | None
    ) -> str:
        """A ServiceAccount's token, bound to `pod` if one is given. Raises ApiError 404."""
        account = self.get("serviceaccounts", namespace, service_account)
        expires = self.clock() + timedelta(seconds=expiration_seconds)
        return self.tokens.issue(account, audiences=audiences, expires=expires, pod=pod)

    def register_node(self, node: Object) -> None:
        """Create the Node object, or replace the one of that name."""
        target = self._target("nodes", None, name_of(node))
        if target.key in self.storage.collection("nodes").entries:
            self.writer.update(target, node, _KUBELET)
            self.writer.update(self._target("nodes", None, name_of(node), status=True), node, _KUBELET)
        else:
            self.writer.create(target, node, _KUBELET)

    def close(self) -> None:
        """End every watch."""
        self.storage.close()

    def _known(self, resource: str, namespace: str | None, name: str, uid: str) -> Entry:
        entry = self.writer.live(self._target(resource, namespace, name))
        if uid_of(entry.object) != uid:
            text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {uid_of(entry.object)}"
            raise conflict(self.catalog.resources[resource], name, text)
        return entry

    def _target(self, resource: str, namespace: str | None, name: str, *, status: bool = False) -> Target:
        return Target.of(self.catalog.resources[resource], (namespace or "", name), status=status)

    def _lookup(self, resource: str, namespace: str, name: str) -> Object | None:
        entry = self.storage.collection(resource).entries.get((namespace, name))
        return entry.object if entry else None

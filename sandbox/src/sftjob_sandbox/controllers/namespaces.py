"""The life of namespaces: what a new one holds, and how a deleted one empties."""

import asyncio

from sftjob_sandbox.apimachinery.objects import Object, is_deleting
from sftjob_sandbox.storage.collections import Change, Storage
from sftjob_sandbox.storage.deletion import DeleteOptions
from sftjob_sandbox.storage.resources import Catalog
from sftjob_sandbox.storage.writes import Target, WriteOptions, Writer

_OPTIONS = WriteOptions(manager="kube-controller-manager")


class NamespaceController:
    """Listens to a storage; fills new namespaces and empties deleted ones in a later turn of the event loop."""

    def __init__(self, storage: Storage, catalog: Catalog, writer: Writer, ca: str) -> None:
        self._storage = storage
        self._catalog = catalog
        self._writer = writer
        self._defaults: tuple[tuple[str, Object], ...] = (
            ("serviceaccounts", {"metadata": {"name": "default"}}),
            ("configmaps", {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ca}}),
        )
        self._waiting: set[str] = set()
        storage.listeners.append(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        namespace = change.key[1] if resource == "namespaces" else change.key[0]
        if (resource == "namespaces" or change.type == "DELETED") and namespace and namespace not in self._waiting:
            self._waiting.add(namespace)
            asyncio.get_running_loop().call_soon(self._reconcile, namespace)

    def _reconcile(self, namespace: str) -> None:
        self._waiting.discard(namespace)
        entry = self._storage.collection("namespaces").entries.get(("", namespace))
        if entry is None:
            return
        if not is_deleting(entry.object):
            self._fill(namespace)
        elif self._is_empty_after_deleting(namespace):
            self._storage.remove("namespaces", ("", namespace))

    def _fill(self, namespace: str) -> None:
        """Create what every namespace has: the default ServiceAccount and the server's certificate authority."""
        for key, obj in self._defaults:
            if (namespace, obj["metadata"]["name"]) not in self._storage.collection(key).entries:
                target = Target.of(self._catalog.resources[key], (namespace, ""))
                self._writer.create(target, obj, _OPTIONS)

    def _is_empty_after_deleting(self, namespace: str) -> bool:
        """Delete everything in a namespace; whether nothing is left. What a finalizer or a running Pod keeps, stays."""
        left = False
        for resource in list(self._catalog.resources.values()):
            for key in [key for key in self._storage.collection(resource.key).entries if key[0] == namespace]:
                deleted = self._writer.delete(Target.of(resource, key), DeleteOptions())
                left = left or not deleted.gone
        return not left

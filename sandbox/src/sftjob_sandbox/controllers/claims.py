"""Protection of PersistentVolumeClaims in use: a deleted claim stays while a Pod that uses it exists."""

import asyncio
from typing import Final

from sftjob_sandbox.apimachinery.objects import claims_of, finalizers_of, is_deleting, with_metadata
from sftjob_sandbox.storage.collections import Change, Key, Storage
from sftjob_sandbox.storage.strategies import PROTECTION_FINALIZER
from sftjob_sandbox.storage.writes import Writer

_CLAIMS: Final = "persistentvolumeclaims"


class ClaimProtection:
    """Listens to a storage and lets deleted claims go that no scheduled Pod uses."""

    def __init__(self, storage: Storage, writer: Writer) -> None:
        self._storage = storage
        self._writer = writer
        storage.listeners.append(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        if resource == _CLAIMS and change.type != "DELETED" and is_deleting(change.entry.object):
            asyncio.get_running_loop().call_soon(self._release, change.key)
        if resource == "pods" and change.type == "DELETED":
            for name in claims_of(change.entry.object):
                asyncio.get_running_loop().call_soon(self._release, (change.key[0], name))

    def _release(self, key: Key) -> None:
        entry = self._storage.collection(_CLAIMS).entries.get(key)
        if entry is None or not is_deleting(entry.object):
            return
        pods = [
            pod.object
            for (namespace, _), pod in self._storage.collection("pods").entries.items()
            if namespace == key[0]
        ]
        if any(pod["spec"].get("nodeName") and key[1] in claims_of(pod) for pod in pods):
            return
        others = [name for name in finalizers_of(entry.object) if name != PROTECTION_FINALIZER]
        self._writer.amend(_CLAIMS, key, with_metadata(entry.object, finalizers=others))

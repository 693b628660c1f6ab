"""core/v1 Events that the server's own parts record. A repeated one only counts up."""

import secrets
from dataclasses import dataclass

from sftjob_sandbox.apimachinery.objects import Clock, Object, name_of, namespace_of, timestamp, uid_of
from sftjob_sandbox.storage.collections import Key, Storage
from sftjob_sandbox.storage.resources import Resource
from sftjob_sandbox.storage.writes import Target, WriteOptions, Writer


@dataclass(frozen=True)
class Note:
    """The content of an Event. Events with equal content about the same object are counted as one."""

    type: str
    reason: str
    message: str
    component: str


class EventRecorder:
    """Records Events in the namespace of the object that they are about."""

    def __init__(self, storage: Storage, writer: Writer, resource: Resource, clock: Clock) -> None:
        self._storage = storage
        self._writer = writer
        self._resource = resource
        self._clock = clock
        self._recorded: dict[tuple[str, Note], Key] = {}

    def record(self, regarding: Object, note: Note) -> None:
        """Record `note` about an object. Raises ApiError if its namespace takes no more Events."""
        known = self._recorded.get((uid_of(regarding), note))
        entry = self._storage.collection(self._resource.key).entries.get(known) if known else None
        now = timestamp(self._clock())
        if known and entry:
            repeated = {**entry.object, "count": entry.object["count"] + 1, "lastTimestamp": now}
            self._writer.amend(self._resource.key, known, repeated)
            return
        namespace = namespace_of(regarding) or "default"
        target = Target.of(self._resource, (namespace, ""))
        event = _event(regarding, namespace, note, now)
        self._writer.create(target, event, WriteOptions(manager=note.component))
        self._recorded[uid_of(regarding), note] = (namespace, name_of(event))


def _event(regarding: Object, namespace: str, note: Note, now: str) -> Object:
    involved = {"kind": regarding["kind"], "apiVersion": regarding["apiVersion"]}
    involved |= {
        key: regarding["metadata"][key] for key in ("namespace", "name", "uid") if key in regarding["metadata"]
    }
    involved["resourceVersion"] = regarding["metadata"]["resourceVersion"]
    return {
        "metadata": {"name": f"{name_of(regarding)}.{secrets.token_hex(8)}", "namespace": namespace},
        "involvedObject": involved,
        "reason": note.reason,
        "message": note.message,
        "source": {"component": note.component},
        "reportingComponent": note.component,
        "reportingInstance": "",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "type": note.type,
    }

"""metadata.managedFields: who set which fields, kept up to date on every write that is no apply.

Source: apimachinery's pkg/util/managedfields and structured-merge-diff's package merge.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from sftjob_sandbox.apimachinery.objects import Object, with_metadata
from sftjob_sandbox.apimachinery.schemas import ObjectSchema
from sftjob_sandbox.apply.field_sets import Comparison, FieldSet, ItemError, compare

BEFORE_FIRST_APPLY: Final = "before-first-apply"
_STRIPPED: Final = FieldSet(
    {"f:apiVersion", "f:kind", "f:metadata"},
    {
        "f:metadata": FieldSet({
            "f:name", "f:namespace", "f:creationTimestamp", "f:selfLink", "f:uid", "f:clusterName", "f:generation",
            "f:managedFields", "f:resourceVersion",
        }),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Manager:
    """Who wrote: one entry of managedFields. An applier is one entry whatever version it applies in."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What makes two entries the same."""
        version = "" if self.operation == "Apply" else self.api_version
        return (self.name, self.operation, version, self.subresource)


@dataclass(frozen=True)
class Entry:
    """What a manager owns and when it last changed that."""

    manager: Manager
    fields: FieldSet
    time: str


Managed = dict[tuple[str, str, str, str], Entry]


def read_managed(obj: Object) -> Managed:
    """The entries of an object, by the identity of their managers."""
    result: Managed = {}
    for raw in obj["metadata"].get("managedFields") or ():
        manager = Manager(
            raw.get("manager", ""), raw.get("operation", ""), raw.get("apiVersion", ""), raw.get("subresource", "")
        )
        result[manager.identity] = Entry(
            manager, FieldSet.from_fields_v1(raw.get("fieldsV1") or {}), raw.get("time", "")
        )
    return result


def with_managed(obj: Object, managed: Managed) -> Object:
    """The object with these entries: appliers first, then by time and name."""
    entries = sorted(
        managed.values(), key=lambda e: (e.manager.operation, e.time, e.manager.name, e.manager.subresource)
    )
    written = []
    for entry in entries:
        manager = entry.manager
        raw = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": entry.fields.fields_v1(),
            "subresource": manager.subresource,
        }
        written.append({key: value for key, value in raw.items() if value != ""})
    return with_metadata(obj, managedFields=written or None)


def strip(fields: FieldSet) -> FieldSet:
    """The set without what is never recorded."""
    return fields.difference(_STRIPPED)


def reset_filter(schema: ObjectSchema, subresource: str) -> FieldSet:
    """Fields that a write through this endpoint cannot change."""
    result = FieldSet()
    for path in schema.reset_fields(subresource):
        result.insert(tuple(f"f:{name}" for name in path))
    return result


def take_over(managed: Managed, comparison: Comparison, besides: Iterable[tuple[str, str, str, str]] = ()) -> Managed:
    """Every other manager loses what was changed or removed."""
    changed = comparison.added.union(comparison.modified).union(comparison.removed)
    result = {}
    for identity, entry in managed.items():
        fields = entry.fields if identity in besides else entry.fields.difference(changed)
        if fields:
            result[identity] = replace(entry, fields=fields)
    return result


def record_update(
    old: Object | None,
    new: Object,
    *,
    manager: str,
    subresource: str,
    schema: ObjectSchema,
    now: str,
) -> Object:
    """The object with managedFields after a create, update or patch by `manager`.

    A client that sends `managedFields: [{}]` turns the record off; one that sends none keeps the stored one.
    """
    source = new if not subresource and new["metadata"].get("managedFields") else old
    if new["metadata"].get("managedFields") == [{}]:
        source = None
    managed = read_managed(source) if source else {}
    if not managed and old is not None:
        return with_managed(new, {})
    who = Manager(manager or "unknown", "Update", new["apiVersion"], subresource)
    try:
        managed = updated(old, new, managed, who=who, schema=schema, now=now)
    except ItemError:
        return with_managed(new, {})  # validation will refuse the object, as on a real server
    return with_managed(new, managed)


def updated(
    old: Object | None, new: Object, managed: Managed, *, who: Manager, schema: ObjectSchema, now: str
) -> Managed:
    """The entries after `who` changed `old` into `new`."""
    comparison = compare(schema.zero if old is None else _bare(old), _bare(new), schema.fields)
    ignored = reset_filter(schema, who.subresource)
    comparison = Comparison(
        comparison.added.without(ignored), comparison.removed.without(ignored), comparison.modified.without(ignored)
    )
    result = take_over(managed, comparison)
    gained = strip(comparison.added.union(comparison.modified))
    if gained:
        previous = result.get(who.identity)
        result[who.identity] = Entry(who, gained.union(previous.fields) if previous else gained, now)
    return result


def _bare(obj: Object) -> Object:
    return with_metadata(obj, managedFields=None)

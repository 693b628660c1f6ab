"""Server-side apply.

Source: structured-merge-diff's packages merge and typed, apimachinery's pkg/util/managedfields.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from sftjob_sandbox.apimachinery.causes import as_json
from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.fields import FieldTree
from sftjob_sandbox.apimachinery.objects import Object, with_metadata
from sftjob_sandbox.apimachinery.schemas import ObjectSchema
from sftjob_sandbox.apply.field_sets import MISSING, FieldSet, compare, display, field_set, item_element
from sftjob_sandbox.apply.managed_fields import (
    BEFORE_FIRST_APPLY,
    Entry,
    Managed,
    Manager,
    read_managed,
    reset_filter,
    strip,
    take_over,
    updated,
    with_managed,
)
from sftjob_sandbox.apply.typed import check_applied

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
KUBECTL: Final = "kubectl"


@dataclass(frozen=True, kw_only=True)
class Applier:
    """Who applies, through which endpoint, when. `force` takes fields from other managers."""

    manager: str
    now: str
    subresource: str = ""
    force: bool = False


@dataclass(frozen=True)
class _Conflict:
    owner: Entry
    path: tuple[str, ...]

    @property
    def owner_text(self) -> str:
        """`"kubectl-client-side-apply" using v1`."""
        manager = self.owner.manager
        text = json.dumps(manager.name)
        if manager.subresource:
            text += f' with subresource "{manager.subresource}"'
        return f"{text} using {manager.api_version}" if manager.operation == "Update" else text


def server_side_apply(live: Object | None, intent: Object, schema: ObjectSchema, applier: Applier) -> Object:
    """Merge what `applier` wants into the live object: the new object, defaulted and with its managedFields.

    `intent` is the body as it came. Fields that this manager applied before and leaves out now are removed unless
    somebody else owns them.

    Raises:
        ApiError: 409 if the intent changes a field that another manager owns, unless `force`; what `check_applied`
            raises; 400 for a value that cannot be decoded.
    """
    check_applied(intent, schema)
    empty: Object = {"apiVersion": intent["apiVersion"], "kind": intent["kind"], "metadata": {}}
    manager, subresource, now = applier.manager, applier.subresource, applier.now
    current = with_metadata(live, managedFields=None) if live else empty
    managed = read_managed(live) if live else {}
    if not managed and live:
        before = Manager(BEFORE_FIRST_APPLY, "Update", intent["apiVersion"], subresource)
        managed = updated(None, current, {}, who=before, schema=schema, now=now)
    who = Manager(manager, "Apply", intent["apiVersion"], subresource)
    outcome = _apply(current, intent, managed, who, schema)
    conflicts = [] if applier.force else outcome.conflicts
    if conflicts and manager == KUBECTL:
        conflicts = _not_from_client_side_apply(conflicts, current, schema.fields)
    if conflicts:
        raise _conflict_error(conflicts)
    merged = schema.default(schema.prune(outcome.obj)[0])
    fields = strip(outcome.owned)
    result = {identity: entry for identity, entry in outcome.managed.items() if identity != who.identity}
    if fields:
        known = managed.get(who.identity)
        unchanged = known is not None and known.fields == fields and merged == current
        result[who.identity] = Entry(who, fields, known.time if known and unchanged else now)
    return with_managed(_with_last_applied(merged, intent) if manager == KUBECTL else merged, result)


@dataclass(frozen=True)
class _Outcome:
    obj: Object
    owned: FieldSet
    managed: Managed
    conflicts: list[_Conflict]


def _apply(current: Object, intent: Object, managed: Managed, who: Manager, schema: ObjectSchema) -> _Outcome:
    tree = schema.fields
    ignored = reset_filter(schema, who.subresource)
    owned = field_set(intent, tree).without(ignored)
    merged: Object = merge(current, intent, tree)
    others = {identity: entry for identity, entry in managed.items() if identity != who.identity}
    last = managed.get(who.identity)
    if last is not None:
        kept = owned
        for entry in others.values():
            kept = kept.union(entry.fields)
        merged = _pruned(merged, last.fields, kept, tree)
    comparison = compare(current, merged, tree)
    for part in ("added", "removed", "modified"):
        setattr(comparison, part, getattr(comparison, part).without(ignored))
    changed = comparison.added.union(comparison.modified)
    conflicts = [
        _Conflict(entry, path) for entry in others.values() for path in entry.fields.intersection(changed).paths()
    ]
    return _Outcome(merged, owned, take_over(others, comparison), conflicts)


def _pruned(merged: Object, last: FieldSet, kept: FieldSet, tree: FieldTree) -> Object:
    """Remove what was applied last time and belongs to nobody now."""
    last_named = last.with_named_fields(tree)
    pruned: Object = remove(merged, last_named, tree)
    in_merged = field_set(merged, tree).with_named_fields(tree)
    in_pruned = field_set(pruned, tree).with_named_fields(tree)
    # add back what others own
    doomed = in_merged.difference(in_pruned.union(kept.with_named_fields(tree)))
    pruned = remove(merged, doomed, tree)
    # add back what this manager did not own
    in_pruned = field_set(pruned, tree).with_named_fields(tree)
    result: Object = remove(merged, in_merged.difference(in_pruned).intersection(last_named), tree)
    return result


def merge(live: Any, applied: Any, tree: FieldTree) -> Any:
    """The live value with the applied one merged into it."""
    if live is MISSING or applied is MISSING:
        return applied if live is MISSING else live
    if type(live) is not type(applied) or tree.is_leaf(applied) or (not live and not applied):
        return applied
    if isinstance(applied, dict):
        return {
            key: merge(live.get(key, MISSING), applied.get(key, MISSING), tree.child(key))
            for key in dict.fromkeys((*live, *applied))
        }
    return _merge_items(live, applied, tree)


def _merge_items(live: list[Any], applied: list[Any], tree: FieldTree) -> list[Any]:
    """Items of both; those of the applied list in its order, the others where the live list has them."""
    left = {item_element(tree, item): item for item in live}
    right = {item_element(tree, item): item for item in applied}
    result: list[Any] = []
    waiting = list(right)
    for element, item in left.items():
        if element not in right:
            result.append(item)
            continue
        while element in waiting:
            head = waiting.pop(0)
            result.append(merge(left.get(head, MISSING), right[head], tree.item))
    return result + [merge(left.get(head, MISSING), right[head], tree.item) for head in waiting]


def remove(value: Any, doomed: FieldSet, tree: FieldTree) -> Any:
    """The value without the fields of a set; MISSING if nothing is left of it, null for a field with nothing left."""
    if tree.is_leaf(value) or not value:
        return value
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            element = f"f:{key}"
            if element in doomed.members:
                continue
            below = doomed.children.get(element)
            rest = remove(item, below, tree.child(key)) if below else item
            result[key] = None if rest is MISSING else rest
        return result or MISSING
    items = []
    for item in value:
        element = item_element(tree, item)
        if element in doomed.members:
            continue
        below = doomed.children.get(element)
        rest = remove(item, below, tree.item) if below else item
        items.append({} if rest is MISSING else rest)
    return items or MISSING


def _conflict_error(conflicts: list[_Conflict]) -> ApiError:
    if len(conflicts) == 1:
        only = conflicts[0]
        text = f"Apply failed with 1 conflict: conflict with {only.owner_text}: {display(only.path)}"
    else:
        by_owner: dict[str, list[str]] = {}
        for conflict in sorted(conflicts, key=lambda c: c.owner_text):
            by_owner.setdefault(conflict.owner_text, []).append(display(conflict.path))
        lines = [
            line
            for owner, paths in by_owner.items()
            for line in (f"conflicts with {owner}:", *(f"- {p}" for p in paths))
        ]
        text = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {c.owner_text}", "field": display(c.path)}
        for c in conflicts
    ]
    return ApiError(409, "Conflict", text, {"causes": causes})


def _not_from_client_side_apply(conflicts: list[_Conflict], live: Object, tree: FieldTree) -> list[_Conflict]:
    """The conflicts without those over fields that client-side apply set and that still have its value."""
    text = live["metadata"].get("annotations", {}).get(LAST_APPLIED)
    try:
        applied = json.loads(text) if text else None
    except ValueError:
        applied = None
    if not isinstance(applied, dict) or applied.get("apiVersion") != live["apiVersion"]:
        return conflicts
    intent_fields = field_set(applied, tree)
    comparison = compare(applied, live, tree)
    changed = comparison.modified.union(comparison.added).union(comparison.removed)
    allowed = set(intent_fields.difference(changed).paths())
    return [conflict for conflict in conflicts if conflict.path not in allowed]


def _with_last_applied(obj: Object, intent: Object) -> Object:
    """Keep client-side apply's annotation in step, where the object has one."""
    annotations = obj["metadata"].get("annotations", {})
    if not annotations.get(LAST_APPLIED):
        return obj
    mine = {key: value for key, value in intent["metadata"].get("annotations", {}).items() if key != LAST_APPLIED}
    applied = with_metadata(intent, annotations=mine or None)
    return with_metadata(obj, annotations={**annotations, LAST_APPLIED: as_json(applied) + "\n"})

"""Making the decided status the stored one, and saying why where that, or anything else, is not possible."""

import logging
import re
from collections.abc import Container, Mapping
from typing import Any, Final

from sftjob_contract.names import KIND
from sftjob_operator.api import ConditionReason, ConditionStatus, ConditionType, Unread, keep_unknown, to_dict
from sftjob_operator.effects.cluster import (
    AlreadyExistsError,
    Cluster,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Object,
)
from sftjob_operator.effects.events import event_body
from sftjob_operator.gather import Gathering, job_key
from sftjob_operator.logs import LogPace
from sftjob_operator.progress.pace import WritePace
from sftjob_operator.reconcile import TROUBLES, Decision, EventNote, held_status, is_finished, merge_patch, rfc3339
from sftjob_operator.refused import RefusedStatuses
from sftjob_operator.workqueue import Clock, Key, WorkQueue

_URGENT: Final = TROUBLES | {ConditionReason.STOPPING, ConditionReason.INVALID_SPEC}
"""Reasons that Pods have to end for, or that keep the operator from acting."""
_FIELD: Final = re.compile(r"status\.(\w+)")
_INDISPENSABLE: Final = frozenset({"phase", "conditions"})
"""Fields of a status without which it says nothing."""
_LONGEST_ANSWER: Final = 600
"""Characters of the server's words, which quote what it rejects: the whole message has to fit into a condition."""
_REMEDY: Final = "Apply crds/sftjobs.yaml of the operator's version."

log = logging.getLogger(__name__)
Body = Mapping[str, Any]


class NotDoneError(Exception):
    """An action could not be carried out. `reason` and the text are for a condition, `error` is the server's answer.

    `after_seconds`: the same is not tried again before.
    """

    def __init__(
        self, reason: ConditionReason, what: str, error: ClusterError, remedy: str = "", after_seconds: float = 0.0
    ) -> None:
        answer = str(error)
        answer = answer if len(answer) <= _LONGEST_ANSWER else answer[: _LONGEST_ANSWER - 3] + "..."
        super().__init__(f"The operator could not {what}: {answer}. {remedy} It tries again.".replace("  ", " "))
        self.reason = reason
        self.error = error
        self.after_seconds = after_seconds


class StatusWriter:
    """Writes the status of the job that a worker holds; `known` learns what the server answers."""

    def __init__(self, cluster: Cluster, known: Gathering, pace: WritePace, queue: WorkQueue, clock: Clock) -> None:
        self._cluster = cluster
        self._known = known
        self._pace = pace
        self._queue = queue
        self._clock = clock
        self._refused = RefusedStatuses(clock.monotonic)
        self._log_pace = LogPace(clock.monotonic)
        self._not_kept: dict[str, str] = {}
        """By uid: the fields that the server was last seen not to keep."""

    def forget(self, uid: str) -> None:
        """The job has ended or is gone."""
        self._pace.forget(uid)
        self._refused.forget(uid)
        self._not_kept.pop(uid, None)

    def keep_only(self, uids: Container[str]) -> None:
        """Forget all other jobs."""
        self._pace.keep_only(uids)
        self._refused.keep_only(uids)
        self._not_kept = {uid: fields for uid, fields in self._not_kept.items() if uid in uids}

    async def settle(self, key: Key, body: Body, decision: Decision, unread: Unread) -> None:
        """Make the decided status the stored one, now or when it is due, and schedule the next look at the job.

        `unread` is what of the stored status could not be read; it stays. If the server refuses single fields, the
        others are written.

        Raises:
            NotDoneError: the server refuses the status, or does not answer.
        """
        decided = {name: part for name, part in to_dict(decision.status).items() if part not in ([], {})}
        new = keep_unknown(body.get("status") or {}, decided, unread)
        if decision.recheck_seconds is not None:
            self._queue.add_after(key, decision.recheck_seconds)
        try:
            if await self._store(key, body, new, decision.events):
                self._refused.forget(body["metadata"]["uid"])
        except NotDoneError as refused:
            await self._settle_partly(key, body, new, decision.events, refused)
            raise

    async def _settle_partly(
        self, key: Key, body: Body, new: Object, events: tuple[EventNote, ...], refused: NotDoneError
    ) -> None:
        """Write the status without the fields that the server refuses, and say so in its conditions.

        That a job has ended is not written without all that it left behind: nothing would be added later.
        """
        smaller = without_refused(body.get("status") or {}, new, getattr(refused.error, "causes", ()))
        if smaller is None or is_finished({**body, "status": smaller}):
            return
        told = held_status({**body, "status": smaller}, refused.reason, str(refused), self._clock.now())
        try:
            written = await self._write(key, body, merge_patch(body.get("status") or {}, told), told)
        except ClusterError as error:
            log.info("cannot write the other fields of the status either: %s", error, extra=job_field(key))
        else:
            await self._post(body, (*events, _warning(refused.reason, str(refused))) if written else ())

    async def hold(self, key: Key, body: Body, reason: str, message: str) -> None:
        """Leave a job that cannot be decided about, or acted on, as it is, and say why in its conditions.

        If the server does not take them either, an Event says it.

        Raises:
            NotDoneError: the server refuses the status, or does not answer.
        """
        events = (_warning(reason, message),)
        held = held_status(body, reason, message, self._clock.now())
        try:
            await self._store(key, body, held, events)
        except NotDoneError as refused:
            self._refused.put(body["metadata"]["uid"], _kind(held))
            also = () if refused.reason == reason else (_warning(refused.reason, str(refused)),)
            await self._post(body, (*events, *also))
            raise

    async def tell(self, body: Body, reason: str, message: str) -> None:
        """Say in an Event what keeps the operator from acting on a job whose conditions are final."""
        await self._post(body, (_warning(reason, message),))

    async def _store(self, key: Key, body: Body, new: Object, events: tuple[EventNote, ...]) -> bool:
        """Write a status, now or when it is due; returns whether it was written.

        Raises:
            NotDoneError: the server refuses it, or does not answer.
        """
        old, uid = body.get("status") or {}, body["metadata"]["uid"]
        if not (patch := merge_patch(old, new)):
            self._pace.unwanted(uid)
            return False
        wait = self._refused.seconds_until_allowed(uid, _kind(new))
        if wait <= 0 and not _urgent(old, new):
            wait = self._pace.seconds_until_allowed(uid)
        if wait > 0:
            self._queue.add_after(key, wait)
            return False
        try:
            written = await self._write(key, body, patch, new)
        except (ForbiddenError, InvalidError) as error:
            self._pace.written(uid)
            again = self._refused.put(uid, _kind(new))
            remedy = _REMEDY if refused_fields(getattr(error, "causes", ())) else ""
            raise NotDoneError(ConditionReason.STATUS_REFUSED, "write the status", error, remedy, again) from error
        except ClusterError as error:
            raise NotDoneError(ConditionReason.SERVER_UNAVAILABLE, "write the status", error) from error
        if written:
            await self._post(body, events)
        return written

    async def _write(self, key: Key, body: Body, patch: Object, new: Object) -> bool:
        """Patch the status, provided that the job is still the one that was decided about."""
        namespace, name = key
        guard = {"resourceVersion": body["metadata"]["resourceVersion"]}
        try:
            answer = await self._cluster.patch_status(namespace, name, {"metadata": guard, "status": patch})
        except NotFoundError:
            self._known.jobs.drop(body)
            return False
        except ConflictError:
            self._known.jobs.put(await self._cluster.get(KIND, namespace, name))
            self._queue.add(key)
            return False
        self._pace.written(body["metadata"]["uid"])
        self._known.jobs.put(answer)
        if is_finished(answer):
            self._queue.add(key)  # to forget it, or to wait for its time to live
        await self._tell_what_is_lost(key, body, merge_patch(answer.get("status") or {}, new))
        if new.get("phase") != (body.get("status") or {}).get("phase"):
            log.info("phase %s", new.get("phase"), extra=job_field(key))
        return True

    async def _tell_what_is_lost(self, key: Key, body: Body, lost: Object) -> None:
        """Say once which fields the server did not keep, since its CRD does not have them."""
        uid, fields = body["metadata"]["uid"], ", ".join(sorted(lost))
        if not fields or self._not_kept.get(uid) == fields:
            return
        self._not_kept[uid] = fields
        log.warning(
            "the API server did not keep status fields %s: apply crds/sftjobs.yaml", fields, extra=job_field(key)
        )
        message = f"The installed CRD does not have status fields {fields}, so that they are not stored. {_REMEDY}"
        await self._post(body, (_warning("StatusIncomplete", message),))

    async def _post(self, body: Body, events: tuple[EventNote, ...]) -> None:
        time = rfc3339(self._clock.now())
        for note in events:
            try:
                event = event_body(body, note.type, note.reason, note.message, time, note.cause)
                await self._cluster.create(event)
            except AlreadyExistsError:
                continue
            except ClusterError as error:
                if self._log_pace.is_news(note.reason, str(error)):
                    log.info("can not post Event %s: %s", note.reason, error, extra=job_field(job_key(body)))


def job_field(key: Key) -> dict[str, str]:
    """The field that every log line about a job carries."""
    return {"job": "/".join(key)}


def refused_fields(causes: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """Fields of a status that the API server's own validation rejects, by the causes of its answer."""
    return frozenset(found.group(1) for field, _ in causes if (found := _FIELD.match(field)))


def without_refused(old: Body, new: Body, causes: tuple[tuple[str, str], ...]) -> dict[str, Any] | None:
    """`new` with the refused fields as they are in `old`; None if it is not known which, or if it needs them.

    It also needs them if an attempt has ended: what else it left is not read again once its end is stored.
    """
    refused = refused_fields(causes)
    if not refused or refused & _INDISPENSABLE or _ended(old) != _ended(new):
        return None
    kept = {name: part for name, part in new.items() if name not in refused}
    return {**kept, **{name: part for name, part in old.items() if name in refused}}


def _ended(status: Body) -> int:
    return sum(attempt.get("endTime") is not None for attempt in status.get("attempts") or ())


def _warning(reason: str, message: str) -> EventNote:
    return EventNote(type="Warning", reason=reason, message=message)


def _kind(status: Body) -> tuple[object, ...]:
    """What of a status people wait for: another such status is sent at once, even after one was refused."""
    return status.get("phase"), status.get("cleanupTime"), frozenset(_telling(status))


def _urgent(old: Body, new: Body) -> bool:
    """A change that people wait for, or that must not get lost: another phase, first reports, what keeps a job back."""
    return (
        old.get("phase") != new.get("phase")
        or old.get("cleanupTime") != new.get("cleanupTime")
        or bool(_telling(new) - _telling(old))
    )


def _telling(status: Body) -> set[tuple[str, str]]:
    """Conditions, by type and reason, whose first appearance is written without delay."""
    return {(str(c.get("type")), str(c.get("reason"))) for c in status.get("conditions") or () if _is_urgent(c)}


def _is_urgent(condition: Body) -> bool:
    reporting = (ConditionType.PROGRESS_REPORTING, ConditionStatus.TRUE)
    return (condition.get("type"), condition.get("status")) == reporting or str(condition.get("reason")) in _URGENT

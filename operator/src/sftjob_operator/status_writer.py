"""Write the decided status, and report the reason if that, or anything else, fails."""

import logging
import re
from collections.abc import Container, Mapping
from typing import Any, Final

from sftjob_contract.names import KIND
from sftjob_operator.api import ConditionReason, Unread, keep_unknown, to_dict
from sftjob_operator.cluster_cache import ClusterCache, job_key
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
from sftjob_operator.effects.merge_patch import merge_patch
from sftjob_operator.progress.write_rate import WriteRateLimiter
from sftjob_operator.reconcile import Decision, EventNote, blocked_status, is_finished, is_urgent, rfc3339, urgent_part
from sftjob_operator.runtime.logs import LogDeduplicator
from sftjob_operator.runtime.workqueue import Clock, Key, WorkQueue
from sftjob_operator.status_backoff import StatusBackoff

_FIELD: Final = re.compile(r"status\.(\w+)")
_INDISPENSABLE: Final = frozenset({"phase", "conditions"})
"""Fields that a status needs to be meaningful."""
_LONGEST_ANSWER: Final = 600
"""Maximum characters of the server's message, which quotes what it rejects: the whole message has to fit into a
condition."""
_REMEDY: Final = "Apply crds/sftjobs.yaml of the operator's version."

log = logging.getLogger(__name__)
Body = Mapping[str, Any]


class ActionError(Exception):
    """An action could not be executed. `reason` and the text are for a condition, `error` is the server's response.

    `after_seconds`: the earliest time for the next try.
    """

    def __init__(
        self, reason: ConditionReason, what: str, error: ClusterError, remedy: str = "", after_seconds: float = 0.0
    ) -> None:
        answer = str(error)
        answer = answer if len(answer) <= _LONGEST_ANSWER else answer[: _LONGEST_ANSWER - 3] + "..."
        super().__init__(f"The operator could not {what}: {answer}. {remedy} It will retry.".replace("  ", " "))
        self.reason = reason
        self.error = error
        self.after_seconds = after_seconds


class StatusWriter:
    """Writes the status of the job that a worker holds; `cache` is updated with the server's responses."""

    def __init__(
        self, cluster: Cluster, cache: ClusterCache, write_rate: WriteRateLimiter, queue: WorkQueue, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._write_rate = write_rate
        self._queue = queue
        self._clock = clock
        self._backoff = StatusBackoff(clock.monotonic)
        self._log_dedup = LogDeduplicator(clock.monotonic)
        self._dropped_fields: dict[str, str] = {}
        """By UID: the fields that the server last failed to keep."""

    def forget(self, uid: str) -> None:
        """Forget a job that has ended or no longer exists."""
        self._write_rate.forget(uid)
        self._backoff.forget(uid)
        self._dropped_fields.pop(uid, None)

    def keep_only(self, uids: Container[str]) -> None:
        """Forget all other jobs."""
        self._write_rate.keep_only(uids)
        self._backoff.keep_only(uids)
        self._dropped_fields = {uid: fields for uid, fields in self._dropped_fields.items() if uid in uids}

    async def write(self, key: Key, body: Body, decision: Decision, unread: Unread) -> None:
        """Write the decided status, now or when it is due, and schedule the next pass over the job.

        `unread` are the unreadable parts of the stored status; they stay. If the server rejects single fields, the
        others are written.

        Raises:
            NotDoneError: the server rejects the status, or does not answer.
        """
        decided = {name: part for name, part in to_dict(decision.status).items() if part not in ([], {})}
        new = keep_unknown(body.get("status") or {}, decided, unread)
        if decision.recheck_seconds is not None:
            self._queue.add_after(key, decision.recheck_seconds)
        try:
            if await self._store(key, body, new, decision.events):
                self._backoff.forget(body["metadata"]["uid"])
        except ActionError as rejected:
            await self._write_accepted_fields(key, body, new, decision.events, rejected)
            raise

    async def _write_accepted_fields(
        self, key: Key, body: Body, new: Object, events: tuple[EventNote, ...], rejected: ActionError
    ) -> None:
        """Write the status without the fields that the server rejects, and report them in its conditions.

        The end of a job is written only with all of its results: nothing would be added later.
        """
        smaller = without_rejected(body.get("status") or {}, new, getattr(rejected.error, "causes", ()))
        if smaller is None or is_finished({**body, "status": smaller}):
            return
        status = blocked_status({**body, "status": smaller}, rejected.reason, str(rejected), self._clock.now())
        try:
            written = await self._write(key, body, merge_patch(body.get("status") or {}, status), status)
        except ClusterError as error:
            log.info("cannot write the other fields of the status either: %s", error, extra=job_field(key))
        else:
            await self._post(body, (*events, _warning(rejected.reason, str(rejected))) if written else ())

    async def write_blocked(self, key: Key, body: Body, reason: str, message: str) -> None:
        """Leave a job that cannot be decided about, or acted on, unchanged, and report the reason in its conditions.

        If the server rejects them too, an Event reports it.

        Raises:
            NotDoneError: the server rejects the status, or does not answer.
        """
        events = (_warning(reason, message),)
        held = blocked_status(body, reason, message, self._clock.now())
        try:
            await self._store(key, body, held, events)
        except ActionError as rejected:
            self._backoff.put(body["metadata"]["uid"], urgent_part(held))
            also = () if rejected.reason == reason else (_warning(rejected.reason, str(rejected)),)
            await self._post(body, (*events, *also))
            raise

    async def post_warning(self, body: Body, reason: str, message: str) -> None:
        """Post an Event with what prevents the operator from acting on a job whose conditions are final."""
        await self._post(body, (_warning(reason, message),))

    async def _store(self, key: Key, body: Body, new: Object, events: tuple[EventNote, ...]) -> bool:
        """Write a status, now or when it is due; return whether it was written.

        Raises:
            NotDoneError: the server rejects it, or does not answer.
        """
        old, uid = body.get("status") or {}, body["metadata"]["uid"]
        if not (patch := merge_patch(old, new)):
            self._write_rate.unwanted(uid)
            return False
        wait = self._backoff.seconds_until_allowed(uid, urgent_part(new))
        if wait <= 0 and not is_urgent(old, new):
            wait = self._write_rate.seconds_until_allowed(uid)
        if wait > 0:
            self._queue.add_after(key, wait)
            return False
        try:
            written = await self._write(key, body, patch, new)
        except (ForbiddenError, InvalidError) as error:
            self._write_rate.written(uid)
            again = self._backoff.put(uid, urgent_part(new))
            remedy = _REMEDY if rejected_fields(getattr(error, "causes", ())) else ""
            raise ActionError(ConditionReason.STATUS_REFUSED, "write the status", error, remedy, again) from error
        except ClusterError as error:
            raise ActionError(ConditionReason.SERVER_UNAVAILABLE, "write the status", error) from error
        if written:
            await self._post(body, events)
        return written

    async def _write(self, key: Key, body: Body, patch: Object, new: Object) -> bool:
        """Patch the status, provided that the job has not changed since the decision."""
        namespace, name = key
        guard = {"resourceVersion": body["metadata"]["resourceVersion"]}
        try:
            answer = await self._cluster.patch_status(namespace, name, {"metadata": guard, "status": patch})
        except NotFoundError:
            self._cache.jobs.drop(body)
            return False
        except ConflictError:
            self._cache.jobs.put(await self._cluster.get(KIND, namespace, name))
            self._queue.add(key)
            return False
        self._write_rate.written(body["metadata"]["uid"])
        self._cache.jobs.put(answer)
        if is_finished(answer):
            self._queue.add(key)  # to forget it, or to wait for its time to live
        await self._warn_about_dropped_fields(key, body, merge_patch(answer.get("status") or {}, new))
        if new.get("phase") != (body.get("status") or {}).get("phase"):
            log.info("phase %s", new.get("phase"), extra=job_field(key))
        return True

    async def _warn_about_dropped_fields(self, key: Key, body: Body, lost: Object) -> None:
        """Report once which fields the server did not keep, because its CRD does not have them."""
        uid, fields = body["metadata"]["uid"], ", ".join(sorted(lost))
        if not fields or self._dropped_fields.get(uid) == fields:
            return
        self._dropped_fields[uid] = fields
        log.warning("the API server dropped status fields %s: apply crds/sftjobs.yaml", fields, extra=job_field(key))
        message = f"The installed CRD does not have status fields {fields}, so they are not stored. {_REMEDY}"
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
                if self._log_dedup.is_new(note.reason, str(error)):
                    log.info("cannot post Event %s: %s", note.reason, error, extra=job_field(job_key(body)))


def job_field(key: Key) -> dict[str, str]:
    """Return the field that every log line about a job has."""
    return {"job": "/".join(key)}


def rejected_fields(causes: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """Return the status fields that the API server's own validation rejects, by the causes in its response."""
    return frozenset(found.group(1) for field, _ in causes if (found := _FIELD.match(field)))


def without_rejected(old: Body, new: Body, causes: tuple[tuple[str, str], ...]) -> dict[str, Any] | None:
    """Return `new` with the rejected fields as in `old`; None if they are unknown, or if `new` needs them.

    It also needs them if an attempt has ended: its other results are not read again once its end is stored.
    """
    rejected = rejected_fields(causes)
    if not rejected or rejected & _INDISPENSABLE or _ended(old) != _ended(new):
        return None
    kept = {name: part for name, part in new.items() if name not in rejected}
    return {**kept, **{name: part for name, part in old.items() if name in rejected}}


def _ended(status: Body) -> int:
    return sum(attempt.get("endTime") is not None for attempt in status.get("attempts") or ())


def _warning(reason: str, message: str) -> EventNote:
    return EventNote(type="Warning", reason=reason, message=message)

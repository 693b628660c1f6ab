"""Correction of a Pod's times by the reliable clocks: the API server's and this process's."""

from dataclasses import replace
from datetime import datetime, timedelta

from sftjob_operator.reconcile.observe.observed import PodView
from sftjob_operator.reconcile.observe.times import clamped, parse_time, rfc3339


def corrected(pod: PodView, job_created: str | None, now: datetime) -> PodView:
    """Return `pod` with its container's times between the creation of the Pod and `now`, in the same order.

    A node's clock may be wrong by any amount. A visible error (a start before the Pod was created, an end after `now`)
    is subtracted from both times, so that an end counts as an hour ago only if that is possible.
    """
    if pod.started is None and pod.finished is None:
        return pod
    creations = [parse_time(created) for created in (pod.created, job_created) if created is not None]
    earliest = min(max(creations), now) if creations else None
    started, finished = _moment(pod.started), _moment(pod.finished)
    off = _offset(started, finished, earliest, now)
    low = earliest if earliest is not None else datetime.min.replace(tzinfo=now.tzinfo)
    if started is not None:
        low = started = _shifted(started, off, low, now)
    if finished is not None:
        finished = _shifted(finished, off, low, now)
    return replace(pod, started=_text(started), finished=_text(finished))


def _offset(started: datetime | None, finished: datetime | None, earliest: datetime | None, now: datetime) -> timedelta:
    """Return the minimum by which the node's clock is ahead, negative if it is behind."""
    first, last = started or finished, finished or started
    if last is not None and last > now:
        return last - now
    if first is not None and earliest is not None and first < earliest:
        return first - earliest
    return timedelta(0)


def _shifted(moment: datetime, off: timedelta, low: datetime, now: datetime) -> datetime:
    try:
        return clamped(moment - off, low, now)
    except OverflowError:
        return now


def _moment(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)

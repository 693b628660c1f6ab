"""When the silence of a trainer proves that it hangs, and what its condition says of a changed certificate."""

from datetime import timedelta
from typing import Any

import pytest

from sftjob_contract.names import CA_KEY, Stage
from sftjob_operator.api import ProgressStatus, SFTJobStatus
from sftjob_operator.progress.availability import TICK_SECONDS, EndpointAvailability
from sftjob_operator.reconcile import Decision, Publish, Reachability
from sftjob_operator.report_store import ReportStore
from support.fakes.decisions import PREPARED, a_pod, a_report, condition, decided
from support.fakes.fake_cluster import START, FakeClock, moment
from support.fakes.progress import a_progress
from support.jobs.builders import a_job

HOUR = 3600
TRAINING = (PREPARED, a_pod(Stage.TRAIN, started=moment(0)))


def silent(seconds: float, **reachability: Any) -> Decision:
    """A trainer whose last report arrived 100 s after the start."""
    known = Reachability(**reachability)
    return decided(*TRAINING, seconds=seconds, report=a_report(5, seconds=100), reachability=known)


def hung(decision: Decision) -> bool:
    return any(attempt.reason == "Hung" for attempt in decision.status.attempts)


@pytest.mark.parametrize(
    ("reachability", "seconds", "ended"),
    [
        pytest.param({}, 100 + HOUR, True, id="nothing else can be the cause"),
        pytest.param({"available_since": START}, 100 + HOUR, True, id="the endpoint took everything all the time"),
        pytest.param({"available_since": START + timedelta(seconds=2000)}, 100 + HOUR, False, id="it did not"),
        pytest.param({"available_since": START + timedelta(seconds=2000)}, 2000 + HOUR, True, id="an hour later"),
        pytest.param({"certificate_since": START + timedelta(seconds=50)}, 100 + HOUR, True, id="it had the new CA"),
        pytest.param({"certificate_since": START + timedelta(seconds=150)}, 99 * HOUR, False, id="it may not have it"),
        pytest.param({"silent_together": True}, 99 * HOUR, False, id="many fell silent together"),
    ],
)
def test_silence_is_a_proof_only_where_reports_could_arrive(
    reachability: dict[str, Any], seconds: float, ended: bool
) -> None:
    assert hung(silent(seconds, **reachability)) is ended


def test_the_operator_looks_again_when_the_hour_since_the_last_disturbance_is_over() -> None:
    looked = silent(3000, available_since=START + timedelta(seconds=2000))
    assert looked.recheck_seconds == 2000 + HOUR - 3000


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (115, ("True", "Reporting", "reports its progress")),
        (140, ("Unknown", "ReportsMissing", "certificate of the progress endpoint changed at 2026-03-01T12:01:50Z")),
        (110 + 181, ("False", "ReportsMissing", "the trainer does not read the new ca.crt of ConfigMap demo-config")),
    ],
)
def test_a_trainer_that_has_not_picked_up_a_new_certificate_is_told_as_that(
    seconds: float, expected: tuple[str, str, str]
) -> None:
    seen = silent(seconds, certificate_since=START + timedelta(seconds=110))
    status, reason, message = condition(seen, "ProgressReporting")
    assert (status, reason) == expected[:2]
    assert expected[2] in message
    assert "NetworkPolicy" not in message


@pytest.mark.parametrize(("seconds", "status"), [(1000, "True"), (1089, "True"), (1090, "False")])
def test_after_a_restart_silence_counts_from_the_start_of_the_operator(seconds: float, status: str) -> None:
    shown = ProgressStatus(step=5, max_steps=10, percent=50, last_report_time=moment(100))
    job = a_job().with_status(SFTJobStatus(progress=shown))
    started = Reachability(available_since=START + timedelta(seconds=1000))
    seen = decided(*TRAINING, job=job, seconds=seconds, report=None, reachability=started)
    assert condition(seen, "ProgressReporting")[0] == status


def test_the_ca_of_a_job_that_trains_is_published_until_it_is_known_to_be_there() -> None:
    publish = Publish(name="demo-config", data={CA_KEY: "CA"})
    assert publish in decided(*TRAINING, published_ca=None).actions
    assert publish in decided(*TRAINING, published_ca="another").actions
    assert decided(*TRAINING, published_ca="CA").actions == ()
    assert not any(isinstance(action, Publish) for action in decided(PREPARED).actions)


def reports_at(**seconds: float) -> ReportStore:
    reports = ReportStore(silence_seconds=90)
    for uid, when in seconds.items():
        reports.put(uid, a_progress(1), START + timedelta(seconds=when))
    return reports


@pytest.mark.parametrize(
    ("seconds", "together"),
    [
        ({"a": 100}, False),
        ({"a": 100, "b": 150}, True),
        ({"a": 100, "b": 4000}, False),
        ({"a": 100, "b": 150, "c": 4000}, True),
        ({"a": 100, "b": 150, "c": 4000, "d": 4000}, False),
        ({"a": 4000, "b": 150}, False),
        ({"b": 150}, False),
    ],
)
def test_jobs_that_fall_silent_at_the_same_time_are_silent_together(seconds: dict[str, float], together: bool) -> None:
    assert reports_at(**seconds).reachability("a", START + timedelta(seconds=4000)).silent_together is together


def test_a_job_that_still_reports_is_not_silent() -> None:
    reports = reports_at(a=100, b=150)
    assert [reports.reachability("a", START + timedelta(seconds=s)).silent_together for s in (190, 191)] == [
        False,
        True,
    ]


def test_a_process_that_stood_still_starts_to_listen_again() -> None:
    clock = FakeClock()
    availability = EndpointAvailability(clock.now)
    for _ in range(5):
        clock.advance(TICK_SECONDS)
        availability.tick()
    assert availability.available_since == START
    clock.advance(HOUR)
    availability.tick()
    assert availability.available_since == clock.now()
    clock.elapsed -= 500  # a clock that was set back
    availability.tick()
    assert availability.available_since == clock.now()


def test_what_is_remembered_of_a_job_goes_with_it() -> None:
    reports = reports_at(a=1, b=2)
    reports.published("a", "CA", START)
    reports.published("a", "CA", None)
    assert reports.reachability("a", START).certificate_since == START
    reports.keep_only({"b"})
    assert (reports.report("a"), reports.published_ca("a"), reports.report("b") is None) == (None, None, False)
    reports.forget("b")
    assert reports.report("b") is None

"""When the silence of a trainer proves that it hangs, and what its condition says of a changed certificate."""

from datetime import timedelta
from typing import Any

import pytest

from sftjob_contract.names import CA_KEY, Stage
from sftjob_operator.heard import Heard
from sftjob_operator.progress.reception import TICK_SECONDS, Reception
from sftjob_operator.reconcile import Decision, Publish, Reachability
from support.decisions import PREPARED, a_pod, a_report, condition, decided
from support.fake_cluster import START, FakeClock, moment
from support.progress import a_progress

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
        pytest.param({"undisturbed_since": START}, 100 + HOUR, True, id="the endpoint took everything all the time"),
        pytest.param({"undisturbed_since": START + timedelta(seconds=2000)}, 100 + HOUR, False, id="it did not"),
        pytest.param({"undisturbed_since": START + timedelta(seconds=2000)}, 2000 + HOUR, True, id="an hour later"),
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
    looked = silent(3000, undisturbed_since=START + timedelta(seconds=2000))
    assert looked.recheck_seconds == 2000 + HOUR - 3000


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (115, ("True", "Reporting", "reports arrive")),
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


def test_the_ca_of_a_job_that_trains_is_published_until_it_is_known_to_be_there() -> None:
    publish = Publish(name="demo-config", data={CA_KEY: "CA"})
    assert publish in decided(*TRAINING, published_ca=None).actions
    assert publish in decided(*TRAINING, published_ca="another").actions
    assert decided(*TRAINING, published_ca="CA").actions == ()
    assert not any(isinstance(action, Publish) for action in decided(PREPARED).actions)


def heard_at(**seconds: float) -> Heard:
    heard = Heard(silence_seconds=90)
    for uid, when in seconds.items():
        heard.take(uid, a_progress(1), START + timedelta(seconds=when))
    return heard


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
    assert heard_at(**seconds).reachability("a").silent_together is together


def test_a_process_that_stood_still_starts_to_listen_again() -> None:
    clock = FakeClock()
    reception = Reception(clock.now)
    for _ in range(5):
        clock.advance(TICK_SECONDS)
        reception.tick()
    assert reception.undisturbed_since == START
    clock.advance(HOUR)
    reception.tick()
    assert reception.undisturbed_since == clock.now()
    clock.elapsed -= 500  # a clock that was set back
    reception.tick()
    assert reception.undisturbed_since == clock.now()


def test_what_is_remembered_of_a_job_goes_with_it() -> None:
    heard = heard_at(a=1, b=2)
    heard.published("a", "CA", START)
    heard.published("a", "CA", None)
    assert heard.reachability("a").certificate_since == START
    heard.keep_only({"b"})
    assert (heard.report("a"), heard.published_ca("a"), heard.report("b") is None) == (None, None, False)
    heard.forget("b")
    assert heard.report("b") is None

"""When a status write that can wait is made."""

from sftjob_operator.progress.pace import WritePace
from support.fake_cluster import FakeClock

UID = "0b5b1a9e"


def a_pace(clock: FakeClock) -> WritePace:
    return WritePace(interval_seconds=10, settle_seconds=2, monotonic=clock.monotonic)


def test_a_first_write_waits_for_company_only() -> None:
    clock = FakeClock()
    pace = a_pace(clock)
    assert pace.seconds_until_allowed(UID) == 2
    clock.advance(1.5)
    assert pace.seconds_until_allowed(UID) == 0.5
    clock.advance(0.5)
    assert pace.seconds_until_allowed(UID) == 0


def test_the_next_write_waits_for_the_interval() -> None:
    clock = FakeClock()
    pace = a_pace(clock)
    pace.written(UID)
    clock.advance(3)
    assert pace.seconds_until_allowed(UID) == 7
    clock.advance(7)
    assert pace.seconds_until_allowed(UID) == 0


def test_wanting_again_does_not_push_a_write_further_away() -> None:
    clock = FakeClock()
    pace = a_pace(clock)
    pace.written(UID)
    clock.advance(9)
    assert pace.seconds_until_allowed(UID) == 2
    clock.advance(1)
    assert pace.seconds_until_allowed(UID) == 1


def test_jobs_do_not_wait_for_each_other() -> None:
    clock = FakeClock()
    pace = a_pace(clock)
    pace.written(UID)
    assert pace.seconds_until_allowed("another") == 2


def test_a_forgotten_job_starts_anew() -> None:
    clock = FakeClock()
    pace = a_pace(clock)
    pace.written(UID)
    pace.forget(UID)
    assert pace.seconds_until_allowed(UID) == 2


def test_jobs_that_are_no_longer_there_are_forgotten() -> None:
    clock = FakeClock()
    pace = a_pace(clock)
    pace.written(UID)
    pace.written("another")
    pace.keep_only({"another"})
    assert pace.seconds_until_allowed(UID) == 2
    assert pace.seconds_until_allowed("another") == 10

"""When a status write that can wait is made."""

from collections import Counter

import pytest

from sftjob_operator.progress.write_rate import WriteRateLimiter
from support.fakes.fake_cluster import FakeClock

UID = "0b5b1a9e"


def a_pace(clock: FakeClock) -> WriteRateLimiter:
    return WriteRateLimiter(interval_seconds=10, settle_seconds=2, most_per_second=20, monotonic=clock.monotonic)


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
    assert len(pace) == 1
    assert pace.seconds_until_allowed(UID) == 2
    assert pace.seconds_until_allowed("another") == 10


@pytest.mark.parametrize(("jobs", "interval"), [(50, 10), (200, 10), (1000, 50)])
def test_the_writes_of_many_jobs_are_bounded_and_every_job_has_its_turn(jobs: int, interval: int) -> None:
    clock, names = FakeClock(), [str(number) for number in range(jobs)]
    pace = a_pace(clock)
    for name in names:
        pace.written(name)
    writes, wanting = Counter[str](), set[str]()
    for second in range(1, 4 * interval + 1):
        wanting |= set(names if second % 10 == 1 else ())  # all report at the same moment
        clock.advance(1)
        for name in [name for name in names if name in wanting and pace.seconds_until_allowed(name) == 0]:
            pace.written(name)
            wanting.remove(name)
            writes[name] += 1
    assert min(writes.values()) >= 3
    assert writes.total() <= 1.1 * 20 * 4 * interval


def test_jobs_that_want_nothing_slow_nobody_down() -> None:
    clock = FakeClock()
    pace = a_pace(clock)
    for number in range(1000):
        pace.written(str(number))
        pace.seconds_until_allowed(str(number))
        pace.unwanted(str(number))
    clock.advance(5)
    assert pace.seconds_until_allowed("0") == 5

"""What is logged in an outage: each thing now and then, not at each try."""

from sftjob_operator.runtime.logs import MOST_REMEMBERED, REPEAT_SECONDS, LogDeduplicator
from support.fakes.fake_cluster import FakeClock


def test_the_same_line_about_one_thing_is_news_once_in_a_while_whatever_its_numbers() -> None:
    clock = FakeClock()
    pace = LogDeduplicator(clock.monotonic)
    assert pace.is_new("a", "port 1 refused")
    assert not pace.is_new("a", "port 22 refused")
    assert pace.is_new("b", "port 1 refused")
    assert pace.is_new("a", "reset")
    clock.advance(REPEAT_SECONDS)
    assert pace.is_new("a", "port 1 refused")


def test_only_so_many_lines_are_remembered() -> None:
    pace = LogDeduplicator(FakeClock().monotonic)
    for job in range(25_000):
        pace.is_new(f"job {job}", "down")
    assert 0 < len(pace) <= MOST_REMEMBERED

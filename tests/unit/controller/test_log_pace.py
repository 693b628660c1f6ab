"""What is logged in an outage: each thing now and then, not at each try."""

from sftjob_operator.logs import MOST_REMEMBERED, REPEAT_SECONDS, LogPace
from support.fake_cluster import FakeClock


def test_the_same_line_about_one_thing_is_news_once_in_a_while_whatever_its_numbers() -> None:
    clock = FakeClock()
    pace = LogPace(clock.monotonic)
    assert pace.is_news("a", "port 1 refused")
    assert not pace.is_news("a", "port 22 refused")
    assert pace.is_news("b", "port 1 refused")
    assert pace.is_news("a", "reset")
    clock.advance(REPEAT_SECONDS)
    assert pace.is_news("a", "port 1 refused")


def test_only_so_many_lines_are_remembered() -> None:
    pace = LogPace(FakeClock().monotonic)
    for job in range(25_000):
        pace.is_news(f"job {job}", "down")
    assert 0 < len(pace) <= MOST_REMEMBERED

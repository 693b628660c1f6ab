import pytest

from sftjob_sandbox.node.timing import Backoff, go_duration


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(10, 60, start_seconds=0)
    assert [backoff.take() for _ in range(6)] == [0, 10, 20, 40, 60, 60]
    backoff.reset()
    assert [backoff.take() for _ in range(2)] == [0, 10]
    assert [Backoff(10, 60).take() for _ in range(1)] == [10]


@pytest.mark.parametrize(
    ("seconds", "text"), [(10, "10s"), (160, "2m40s"), (300, "5m0s"), (3600, "1h0m0s"), (0.05, "0s")]
)
def test_durations_read_as_in_go(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text

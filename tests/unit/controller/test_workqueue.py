"""The queue of jobs: exclusive, de-duplicating, and deaf to no wake-up."""

import asyncio

import pytest

from sftjob_operator.runtime.workqueue import WorkQueue
from support.fakes.fake_cluster import FakeClock

A, B = ("team", "a"), ("team", "b")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue:
    return WorkQueue(clock)


async def test_a_key_that_waits_is_queued_once(queue: WorkQueue) -> None:
    for _ in range(3):
        queue.add(A)
    queue.add(B)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == [A, B]


async def test_a_key_added_while_it_is_worked_on_comes_again_and_never_at_once(queue: WorkQueue) -> None:
    queue.add(A)
    assert await queue.get() == A
    queue.add(A)
    queue.add(A)
    assert len(queue) == 0
    queue.done(A)
    assert len(queue) == 1
    assert await queue.get() == A
    queue.done(A)
    assert len(queue) == 0


async def test_the_earliest_timer_of_a_key_holds(queue: WorkQueue, clock: FakeClock) -> None:
    queue.add_after(A, 30)
    queue.add_after(A, 5)
    queue.add_after(A, 60)
    clock.advance(4)
    assert len(queue) == 0
    clock.advance(1)
    assert len(queue) == 1
    assert await queue.get() == A
    queue.done(A)
    clock.advance(100)
    assert len(queue) == 0


async def test_work_on_a_key_replaces_its_timer_and_keeps_one_set_meanwhile(queue: WorkQueue, clock: FakeClock) -> None:
    queue.add_after(A, 5)
    queue.add(A)
    await queue.get()
    queue.add_after(A, 20)
    queue.done(A)
    clock.advance(19)
    assert len(queue) == 0
    clock.advance(1)
    assert len(queue) == 1


async def test_a_wait_of_nothing_is_no_wait(queue: WorkQueue) -> None:
    queue.add_after(A, 0)
    assert len(queue) == 1


async def test_retries_wait_twice_as_long_each_time_up_to_five_minutes(queue: WorkQueue, clock: FakeClock) -> None:
    waits = []
    for _ in range(11):
        wait = queue.retry(A, "uid", "down")
        assert wait is not None
        waits.append(wait)
        clock.advance(wait)
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == 300
    queue.succeeded(A)
    assert queue.retry(A, "uid", "down") == 1


async def test_a_failure_during_a_wait_leaves_the_wait_as_it_is_and_is_news_once(
    queue: WorkQueue, clock: FakeClock
) -> None:
    waits = []
    for _ in range(4):
        wait = queue.retry(A, "uid", "down")
        assert wait is not None
        waits.append(wait)
        clock.advance(wait)
    assert queue.retry(A, "uid", "down") == 16
    for _ in range(7):
        clock.advance(2)
        assert queue.retry(A, "uid", "down") is None
    assert queue.retry(A, "uid", "another") == 2
    while len(queue):
        queue.done(await queue.get())
    queue.retry(A, "uid", "down")
    clock.advance(2)
    assert len(queue) == 1
    assert queue.retry(A, "uid", "down") == 32


async def test_another_job_of_the_name_waits_the_shortest_time(queue: WorkQueue, clock: FakeClock) -> None:
    for _ in range(5):
        clock.advance(queue.retry(A, "uid", "down") or 0)
    assert queue.retry(A, "another uid", "down") == 1


async def test_a_retry_waits_as_long_as_the_server_asks(queue: WorkQueue, clock: FakeClock) -> None:
    assert queue.retry(A, "uid", "busy", at_least_seconds=17) == 17
    clock.advance(16)
    assert len(queue) == 0
    clock.advance(1)
    assert len(queue) == 1


async def test_a_forgotten_key_has_no_timer(queue: WorkQueue, clock: FakeClock) -> None:
    queue.add_after(A, 5)
    queue.forget(A)
    clock.advance(10)
    assert len(queue) == 0


async def test_a_worker_that_waits_is_woken(queue: WorkQueue) -> None:
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not worker.done()
    queue.add(A)
    assert await worker == A

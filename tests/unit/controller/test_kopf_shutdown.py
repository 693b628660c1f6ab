"""Tasks that swallow a cancellation end all the same, and those from before are left alone."""

import asyncio

import pytest

from sftjob_operator.runtime.kopf_shutdown import ShutdownCanceller


async def swallowing(times: int, cancelled: list[int]) -> None:
    """Go on after being cancelled, so often."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            if len(cancelled) > times:
                raise


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_task_that_goes_on_after_being_cancelled_is_cancelled_again(times: int) -> None:
    cancelled: list[int] = []
    with ShutdownCanceller(grace_seconds=0, interval_seconds=0) as canceller:
        task = asyncio.create_task(swallowing(times, cancelled))
        canceller.start()
        await asyncio.wait([task])
    assert task.cancelled()
    assert len(cancelled) == times + 1


async def test_tasks_from_before_are_spared_and_nothing_is_cancelled_after_the_end() -> None:
    cancelled: list[int] = []
    before = asyncio.create_task(swallowing(0, cancelled))
    with ShutdownCanceller(grace_seconds=0, interval_seconds=0) as canceller:
        inside = asyncio.create_task(swallowing(0, []))
        canceller.start()
        await asyncio.wait([inside])
    after = asyncio.create_task(swallowing(0, cancelled))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not cancelled
    for task in (before, after):
        task.cancel()
    await asyncio.wait([before, after])


async def test_nothing_is_cancelled_unless_the_end_has_begun() -> None:
    with ShutdownCanceller(grace_seconds=0, interval_seconds=0):
        task = asyncio.create_task(swallowing(0, []))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
    task.cancel()
    await asyncio.wait([task])

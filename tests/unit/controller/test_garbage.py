import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sftjob_operator.garbage import collect_forever, leave_old_objects_alone
from support.clients.wait import eventually


@pytest.fixture
def collections() -> Iterator[Counter[int]]:
    """How often each generation was searched in a test that begins with few objects; thresholds are restored."""
    seen: Counter[int] = Counter()

    def count(phase: str, about: dict[str, Any]) -> None:
        seen[about["generation"]] += phase == "start"

    before = gc.get_threshold()
    gc.freeze()
    gc.collect()
    gc.callbacks.append(count)
    yield seen
    gc.callbacks.remove(count)
    gc.set_threshold(*before)
    gc.unfreeze()


def test_objects_that_stay_are_never_searched_by_themselves(collections: Counter[int]) -> None:
    leave_old_objects_alone()
    gc.set_threshold(10, 2)
    kept = [[number] for number in range(100_000)]
    assert len(kept) == 100_000
    assert collections[0] > 0
    assert collections[1] > 0
    assert collections[2] == 0


async def test_garbage_among_them_is_found_in_the_end() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    cycle = Cycle()
    left = weakref.ref(cycle)
    gc.collect()
    del cycle
    collecting = asyncio.create_task(collect_forever(0.01))

    async def is_gone() -> bool:
        return left() is None

    await eventually(is_gone, "it was never collected")
    assert not collecting.done(), "it collects once only"
    collecting.cancel()

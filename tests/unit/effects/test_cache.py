"""The caches: watch events, answers and listings in any order, and never an older version over a newer one."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sftjob_operator.effects.cache import Cache, Key

KEY = ("team", "a")


def a_body(name: str = "a", version: str = "1", value: str = "x") -> dict[str, Any]:
    return {"metadata": {"namespace": "team", "name": name, "resourceVersion": version}, "value": value}


def group(body: Any) -> Key | None:
    metadata = body["metadata"]
    return None if metadata["name"] == "stranger" else (metadata["namespace"], metadata["name"][0])


@pytest.fixture
def cache() -> Cache[str]:
    return Cache(lambda body: body["value"], group)


async def listing(*bodies: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for body in bodies:
        yield body


def test_objects_are_found_by_the_job_they_belong_to(cache: Cache[str]) -> None:
    cache.put(a_body("a-1", value="one"))
    cache.put(a_body("a-2", value="two"))
    cache.put(a_body("b-1", value="three"))
    assert sorted(cache.get(KEY)) == ["one", "two"]
    assert cache.jobs() == (("team", "a"), ("team", "b"))


def test_strangers_are_ignored(cache: Cache[str]) -> None:
    assert not cache.is_new(a_body("stranger"))
    assert cache.put(a_body("stranger")) is None
    assert cache.drop(a_body("stranger")) is None
    assert cache.jobs() == ()


@pytest.mark.parametrize(
    ("versions", "news", "held"),
    [
        (("1", "2"), [KEY, KEY], "2"),
        (("2", "1"), [KEY, None], "2"),
        (("2", "2"), [KEY, None], "2"),
        (("9", "10"), [KEY, KEY], "10"),
        (("abc", "abb"), [KEY, KEY], "abb"),
    ],
)
def test_only_a_newer_version_is_news(
    cache: Cache[str], versions: tuple[str, ...], news: list[Key | None], held: str
) -> None:
    for version, key in zip(versions, news, strict=True):
        assert cache.is_new(a_body(version=version)) is (key is not None)
        assert cache.put(a_body(version=version, value=version)) == key
    assert cache.get(KEY) == (held,)


def test_a_late_deletion_does_not_take_a_new_object_of_the_same_name(cache: Cache[str]) -> None:
    cache.put(a_body(version="7", value="new"))
    assert cache.drop(a_body(version="5")) == KEY
    assert cache.get(KEY) == ("new",)
    cache.drop(a_body(version="8"))
    assert cache.get(KEY) == ()


async def test_a_listing_finds_what_a_watch_missed(cache: Cache[str]) -> None:
    cache.put(a_body("a-gone"))
    cache.put(a_body("a-kept", version="3", value="new"))
    await cache.replace(listing(a_body("a-kept", version="2", value="old"), a_body("a-found", value="found")))
    assert sorted(cache.get(KEY)) == ["found", "new"]


async def test_what_changes_while_a_listing_is_read_is_left_alone(cache: Cache[str]) -> None:
    cache.put(a_body("a-deleted", version="1"))

    async def slow() -> AsyncIterator[dict[str, Any]]:
        cache.put(a_body("a-created", version="9", value="created"))
        cache.drop(a_body("a-deleted", version="9"))
        yield a_body("a-deleted", version="1")

    await cache.replace(slow())
    assert cache.get(KEY) == ("created",)


async def test_a_listing_that_breaks_off_forgets_nothing(cache: Cache[str]) -> None:
    cache.put(a_body("a-1"))

    async def broken() -> AsyncIterator[dict[str, Any]]:
        yield a_body("a-2", value="y")
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        await cache.replace(broken())
    assert sorted(cache.get(KEY)) == ["x", "y"]

"""What an operator asked of an API server, beside what a role grants it."""

from collections.abc import Collection, Iterable

from support.checks.rbac import EVERYWHERE, Grant
from support.servers.hostile_api import Asked


def not_granted(asked: Iterable[Asked], granted: Collection[Grant]) -> set[Asked]:
    """Requests that no grant allows. Names are not compared, since not every request has one."""
    return {one for one in asked if not any(_allows(grant, one) for grant in granted)}


def not_asked(asked: Collection[Asked], granted: Iterable[Grant]) -> set[Grant]:
    """Grants that no request needed."""
    return {grant for grant in granted if not any(_allows(grant, one) for one in asked)}


def _allows(grant: Grant, asked: Asked) -> bool:
    resource = f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource
    same = (grant.verb, grant.group, grant.resource) == (asked.verb, asked.group, resource)
    return same and grant.namespace in (EVERYWHERE, asked.namespace)

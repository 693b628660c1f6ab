"""The queries of a Grafana dashboard."""

from collections.abc import Mapping
from typing import Any, Literal, overload


@overload
def queries(dashboard: Mapping[str, Any]) -> list[str]: ...
@overload
def queries(dashboard: Mapping[str, Any], *, legends: Literal[True]) -> list[tuple[str, str]]: ...
def queries(dashboard: Mapping[str, Any], *, legends: bool = False) -> list[str] | list[tuple[str, str]]:
    """Those of all panels, in their order; with `legends`, each with the legend of its series."""
    found = [
        (target["expr"], target["legendFormat"]) for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]
    return found if legends else [query for query, _ in found]


def substituted(query: str) -> str:
    """A query as Grafana sends it when everything is chosen."""
    chosen = {"$__rate_interval": "1m", "$job_namespace": ".*", "$job_name": ".*"}
    for name, value in chosen.items():
        query = query.replace(name, value)
    return query

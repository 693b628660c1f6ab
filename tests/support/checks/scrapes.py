"""A scrape as a Prometheus reads it."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Scrape:
    """The families of one scrape, read by the client library's own parser.

    Raises:
        ValueError: it is not in the format.
    """

    def __init__(self, text: str, *, open_metrics: bool = False) -> None:
        read = openmetrics_parser.text_string_to_metric_families if open_metrics else text_string_to_metric_families
        self.families: list[Metric] = list(read(text))

    @property
    def samples(self) -> list[Sample]:
        """All of them."""
        return [sample for family in self.families for sample in family.samples]

    def series(self, name: str) -> list[Sample]:
        """Those of one name, such as a histogram's _bucket."""
        return [sample for sample in self.samples if sample.name == name]

    def value(self, name: str, **labels: str) -> float | None:
        """Of the one series of that name with these labels and maybe others; None if there is none."""
        found = [sample.value for sample in self.series(name) if labels.items() <= sample.labels.items()]
        assert len(found) <= 1, f"{name} {labels} is {len(found)} series"
        return found[0] if found else None

    def about(self, job: str) -> dict[str, float]:
        """Every series about one job by its name, with the values of what else it is labelled with in brackets."""
        return {
            f"{sample.name}{sorted(_further(sample)) or ''}".replace("'", ""): sample.value
            for sample in self.samples
            if sample.labels.get("job_name") == job
        }


def _further(sample: Sample) -> Iterable[str]:
    return (value for name, value in sample.labels.items() if name not in ("job_namespace", "job_name"))


def scrape(registry: CollectorRegistry, *, open_metrics: bool = False) -> Scrape:
    """What a registry tells now."""
    told = openmetrics.generate_latest(registry) if open_metrics else generate_latest(registry)
    return Scrape(told.decode(), open_metrics=open_metrics)

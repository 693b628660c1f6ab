"""Sources in a run config."""

from collections.abc import Iterator

from sftjob_contract.run.config import RunConfig


def data_sources(config: RunConfig) -> Iterator[str]:
    """Return all sources of data."""
    yield from (part.source for part in config.dataset.sources)
    if config.dataset.evaluation.source is not None:
        yield config.dataset.evaluation.source


def all_sources(config: RunConfig) -> Iterator[str]:
    """Return all sources that Prepare reads."""
    yield config.model.source
    if config.method.distillation is not None:
        yield config.method.distillation.teacher.source
    yield from data_sources(config)

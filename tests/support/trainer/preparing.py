"""A place to prepare data in: a volume, a tiny model, and files written as rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sftjob_contract import layout
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.prepare import prepare
from sftjob_trainer.process.environment import Environment
from support.trainer.tiny import run_config


def environment(volume: Path, **changes: Any) -> Environment:
    """The environment of a container whose volume is at `volume`, with nothing optional but what `changes` says."""
    bare = Environment(
        config_path=volume / "unused.json",
        volume=volume,
        cache=volume / layout.CACHE,
        claims=None,
        attempt=1,
        termination_log=None,
        progress_url=None,
        progress_ca=None,
        progress_token=None,
    )
    return replace(bare, **changes)


@dataclass(frozen=True)
class Workbench:
    """`root` is a directory of the test's own; `model` is read only."""

    root: Path
    model: Path

    @property
    def volume(self) -> Path:
        """Root of the job's volume."""
        path = self.root / "volume"
        path.mkdir(exist_ok=True)
        return path

    def write(self, name: str, content: bytes | str | Sequence[Mapping[str, Any]]) -> Path:
        """Write a data file: bytes or text as they are, rows as JSON lines."""
        path = self.root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    def config(self, dataset: Path | str, **options: Any) -> RunConfig:
        """A run on `dataset`, of which one row is enough for a batch; `options` are those of `run_config`."""
        if "per_device_batch_size" not in options:
            options = {"per_device_batch_size": 1, "gradient_accumulation_steps": 2, **options}
        return run_config(**{"model": str(self.model), "dataset": str(dataset), **options})

    def prepare(self, dataset: Path | str, **options: Any) -> PreparedStats:
        """Prepare `dataset` on the volume."""
        return self.run(self.config(dataset, **options))

    def run(self, config: RunConfig, **environ: Any) -> PreparedStats:
        """Prepare `config` on the volume."""
        stats = prepare(config, environment(self.volume, **environ)).prepared
        if stats is None:
            raise LookupError("prepare told no statistics")
        return stats

    def sequences(self, part: str = layout.PREPARED_TRAIN) -> list[dict[str, list[int]]]:
        """What the trainer will iterate over."""
        from datasets import load_from_disk

        rows: list[dict[str, list[int]]] = load_from_disk(self.volume / part).to_list()
        return rows

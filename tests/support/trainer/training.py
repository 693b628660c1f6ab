"""A job's volume with prepared data on it, written directly, and the Train stage run in this process."""

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from sftjob_contract import layout
from sftjob_contract.codec import to_json
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.stats import STATS_VERSION, PreparedStats
from sftjob_contract.run.batches import devices
from sftjob_contract.run.config import DataFormat, PackingStrategy, RunConfig, Training
from sftjob_trainer.evaluation.prompts import needs_answers
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.ownership import OWNER_VERSION, Owner
from sftjob_trainer.rows.steps import max_steps, steps_per_epoch
from support.trainer.tiny import run_config

PEFT_IS_BEHIND: Final = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated and will be removed in v6:FutureWarning"
)
"""PEFT 0.21 asks transformers 5.23 by a name that is on its way out."""


def documents(count: int, *, seed: int, shortest: int = 5, longest: int = 20) -> list[list[int]]:
    """Token sequences that a model can learn: each counts upwards from a random start; the last token is the end."""
    generator = random.Random(seed)
    lengths = [generator.randint(shortest, longest) for _ in range(count)]
    starts = [generator.randint(3, 100) for _ in range(count)]
    return [[*range(start, start + length - 1), 2] for start, length in zip(starts, lengths, strict=True)]


def example(ids: list[int]) -> dict[str, list[int]]:
    """A row whose first two tokens are a prompt."""
    return {"input_ids": ids, "labels": [-100, -100, *ids[2:]]}


def wrap(rows: Sequence[list[int]], max_length: int) -> list[dict[str, list[int]]]:
    """Rows one after another, cut wherever a sequence of `max_length` tokens is full."""
    tokens = [token for ids in rows for token in ids]
    labels = [label for ids in rows for label in example(ids)["labels"]]
    starts = range(0, len(tokens), max_length)
    return [{"input_ids": tokens[at : at + max_length], "labels": labels[at : at + max_length]} for at in starts]


def pack(rows: Sequence[list[int]], max_length: int) -> list[dict[str, list[int]]]:
    """Rows one after another into sequences of at most `max_length` tokens."""
    packed: list[list[list[int]]] = [[]]
    for ids in rows:
        if sum(map(len, packed[-1])) + len(ids) > max_length:
            packed.append([])
        packed[-1].append(ids)
    return [
        {
            "input_ids": [token for ids in group for token in ids],
            "labels": [label for ids in group for label in example(ids)["labels"]],
            "seq_lengths": [len(ids) for ids in group],
        }
        for group in packed
    ]


def write_prepared(volume: Path, config: RunConfig, *, rows: int = 24, held_out: int = 7) -> PreparedStats:
    """What the Prepare stage would leave for `config`: `rows` documents to train on, `held_out` to evaluate on."""
    from datasets import Dataset

    training = config.training
    volume.mkdir(parents=True, exist_ok=True)
    (volume / layout.OWNER).write_text(to_json(Owner(version=OWNER_VERSION, job=config.job)), encoding="utf-8")
    parts = {}
    for path, count, seed in ((layout.PREPARED_TRAIN, rows, 1), (layout.PREPARED_EVALUATION, held_out, 2)):
        found = documents(count, seed=seed)
        parts[path] = _sequences(found, training)
        if count:
            Dataset.from_list(parts[path]).save_to_disk(volume / path)
    if held_out and needs_answers(config.evaluation):
        asked = documents(held_out, seed=2)[: config.evaluation.max_samples]
        Dataset.from_list([example(ids) for ids in asked]).save_to_disk(volume / layout.PREPARED_SAMPLES)
    train = parts[layout.PREPARED_TRAIN]
    per_epoch = steps_per_epoch(len(train), training, devices(config))
    stats = stats_of(
        rows=rows + held_out,
        train_rows=rows,
        evaluation_rows=held_out,
        sequences=len(train),
        evaluation_sequences=len(parts[layout.PREPARED_EVALUATION]) if held_out else 0,
        tokens=sum(len(row["input_ids"]) for row in train),
        trained_tokens=sum(label != -100 for row in train for label in row["labels"]),
        steps_per_epoch=per_epoch,
        max_steps=max_steps(per_epoch, training),
    )
    (volume / layout.PREPARED_STATS).write_text(to_json(stats))
    return stats


def _sequences(rows: Sequence[list[int]], training: Training) -> list[dict[str, list[int]]]:
    if not training.packing:
        return [example(ids) for ids in rows]
    pack_by = wrap if training.packing_strategy is PackingStrategy.WRAPPED else pack
    return pack_by(rows, training.max_length)


def stats_of(**numbers: int) -> PreparedStats:
    """Statistics of a prepared data set; what is not given is 1."""
    counts = dict.fromkeys(
        (
            "rows",
            "train_rows",
            "evaluation_rows",
            "sequences",
            "evaluation_sequences",
            "tokens",
            "trained_tokens",
            "steps_per_epoch",
            "max_steps",
        ),
        1,
    )
    return PreparedStats(
        version=STATS_VERSION,
        format=DataFormat.PROMPT_COMPLETION,
        truncated_rows=0,
        dataset_fingerprint="made-for-a-test",
        **{**counts, **numbers},
    )


def job(
    model: Path, *, save_every: int | None = None, evaluate_every: int | None = None, keep: int = 3, **options: Any
) -> RunConfig:
    """A run config for prepared data; `options` are those of `support.trainer.tiny.run_config`."""
    config = run_config(model=str(model), dataset="unused", **options)
    return replace(
        config,
        evaluation=replace(config.evaluation, every_steps=evaluate_every, per_epoch=_once(evaluate_every)),
        checkpoints=replace(config.checkpoints, every_steps=save_every, per_epoch=_once(save_every), keep=keep),
    )


def _once(every_steps: int | None) -> int | None:
    """Once per epoch, where no number of steps is given."""
    return 1 if every_steps is None else None


def environment(volume: Path, *, attempt: int = 1, progress_url: str | None = None) -> Environment:
    """The environment of a container on `volume`."""
    return Environment(
        cache=volume / layout.CACHE,
        config_path=volume / "unused.json",
        volume=volume,
        claims=None,
        attempt=attempt,
        termination_log=None,
        progress_url=progress_url,
        progress_ca=None,
        progress_token=None,
    )


def run_train(volume: Path, config: RunConfig, *, attempt: int = 1) -> Outcome:
    """The Train stage, in this process."""
    from sftjob_trainer.train import train

    return train(config, environment(volume, attempt=attempt))


@dataclass(frozen=True)
class Finished:
    """A run that went through undisturbed. Read only."""

    volume: Path
    config: RunConfig
    stats: PreparedStats
    outcome: Outcome


def finish(volume: Path, config: RunConfig, **options: int) -> Finished:
    """Prepare `volume` for `config` and train to the end; `options` are those of `write_prepared`."""
    stats = write_prepared(volume, config, **options)
    return Finished(volume, config, stats, run_train(volume, config))


def as_died_after(step: int, finished: Finished, volume: Path) -> Path:
    """Make `volume` what `finished` would be, had it been killed some time after the checkpoint of `step`."""
    shutil.copytree(finished.volume, volume)
    for name in (layout.OUTPUT, layout.LOGS, layout.RESULTS):
        shutil.rmtree(volume / name)
    for directory in (volume / layout.CHECKPOINTS).iterdir():
        if (layout.checkpoint_step(directory.name) or 0) > step:
            shutil.rmtree(directory)
    return volume


@dataclass(frozen=True)
class Metrics:
    """The lines of metrics.jsonl."""

    lines: tuple[dict[str, Any], ...]

    def values(self, name: str, *, attempt: int | None = None) -> dict[int, float]:
        """Value of `name` by step."""
        return {
            line["step"]: line[name]
            for line in self.lines
            if name in line and (attempt is None or line["attempt"] == attempt)
        }


def read_metrics(volume: Path) -> Metrics:
    """All of logs/metrics.jsonl."""
    text = (volume / layout.METRICS).read_text()
    return Metrics(tuple(json.loads(line) for line in text.splitlines()))


def build_trainer(volume: Path, config: RunConfig, *, rows: int = 24) -> Any:
    """The trainer as the Train stage makes it, at step 0 and not yet started."""
    from sftjob_trainer.reporting.reporter import Reporter
    from sftjob_trainer.train import new_run
    from sftjob_trainer.training.build import build
    from sftjob_trainer.training.starting_point import initial_paths

    stats = write_prepared(volume, config, rows=rows)
    where = environment(volume)
    return build(new_run(config, where, Reporter(None)), initial_paths(config, where, stats))


def token_mean_loss(model: Any, run: Finished) -> float:
    """The evaluation loss by definition: one row at a time, every trained token counted once."""
    import torch
    from datasets import load_from_disk

    total, tokens = 0.0, 0
    for row in load_from_disk(run.volume / layout.PREPARED_EVALUATION):
        labels = torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=-100)
        total += float(losses.double().sum())
        tokens += int((labels != -100).sum())
    return total / tokens

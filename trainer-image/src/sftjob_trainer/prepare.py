"""The Prepare stage: fetch the model, check and tokenize the data, and say what the run will be. Needs no GPU."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import yaml

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, encode, from_json, to_json
from sftjob_contract.config import RunConfig
from sftjob_contract.names import Stage
from sftjob_contract.outcome import Outcome
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import STATS_VERSION, PreparedStats
from sftjob_trainer import outcome, plan
from sftjob_trainer.configuration import data_sources, devices
from sftjob_trainer.durable import sync_tree, write_atomically
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.files import DataFile, fingerprint
from sftjob_trainer.limits import check_length, check_vocabulary, read_limits
from sftjob_trainer.model_shape import read_model_shape
from sftjob_trainer.outputs import write_run_config
from sftjob_trainer.sequences import (
    Tokenized,
    count_tokens,
    count_trained_tokens,
    largest_token,
    to_dataset,
    tokenize,
)
from sftjob_trainer.sources import ResolvedModel, resolve_dataset, resolve_model
from sftjob_trainer.tokenization import NOT_TRAINED, Encoded, load_tokenizer

logger = logging.getLogger(__name__)

_EXAMPLE_CHARACTERS: Final = 800


@dataclass(frozen=True, kw_only=True)
class Data:
    """The tokenized data: all that was read, and its two parts as `pyarrow.Table` (no `evaluation`: nothing held out).

    `fingerprint` covers the files of both parts.
    """

    read: tuple[Tokenized, ...]
    train: Any
    evaluation: Any | None
    fingerprint: str


def prepare(config: RunConfig, environment: Environment) -> Outcome:
    """Leave the prepared data set on the volume, its statistics last. Doing the same thing again does nothing.

    Raises:
        Failure: model or data can not be had, or can not be used as asked.
    """
    stats = _prepared_before(config, environment)
    if stats is None:
        stats = _prepare(config, environment)
    else:
        logger.info("already prepared: %s sequences, %s steps; nothing to do", stats.sequences, stats.max_steps)
    return replace(outcome.done(Stage.PREPARE), prepared=stats)


def split(train: Tokenized, held_out: Tokenized | None, config: RunConfig) -> tuple[Any, Any | None]:
    """The tables to train and to evaluate on: a source of its own, or rows chosen by the seed.

    Raises:
        Failure: there are too few rows to hold some out.
    """
    if held_out is not None:
        return train.table, held_out.table
    rows = train.table.num_rows
    fraction = config.dataset.evaluation.fraction or 0.0
    chosen = set(plan.held_out_rows(rows, fraction, config.dataset.shuffle_seed))
    if len(chosen) == rows:
        raise Failure(
            Reason.DATA_INVALID,
            f"{config.dataset.sources[0].source} has {rows} usable row(s), too few to hold out {fraction:g} of them; "
            "add rows, or set dataset.evaluation.fraction: 0",
        )
    if not chosen:
        return train.table, None
    return train.table.take([row for row in range(rows) if row not in chosen]), train.table.take(sorted(chosen))


def marked(example: Encoded, tokenizer: Any) -> str:
    """`example` as text, with >> and << around what is trained."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    parts = []
    for trained, run in groupby(pairs, key=lambda pair: pair[1] != NOT_TRAINED):
        text = tokenizer.decode([token for token, _ in run])
        parts.append(f">>{text}<<" if trained else text)
    return "".join(parts)


def _prepare(config: RunConfig, environment: Environment) -> PreparedStats:
    volume = environment.volume
    (volume / layout.PREPARED_STATS).unlink(missing_ok=True)
    shutil.rmtree(volume / layout.PREPARED, ignore_errors=True)
    write_run_config(config, volume)

    model = resolve_model(config, environment)
    at = f" at commit {model.revision}" if model.revision else ""
    logger.info("[1/4] model %s%s", config.model.source, at)
    data = _tokenized(config, environment, model)
    train_sequences = _save(data.train, config, volume / layout.PREPARED_TRAIN)
    evaluation_sequences = _save(data.evaluation, config, volume / layout.PREPARED_EVALUATION)
    stats = _stats(config, data, train_sequences, evaluation_sequences)
    stats = replace(stats, model_snapshot=_snapshot(model, environment.cache), model_revision=model.revision)
    stats = replace(stats, model_shape=read_model_shape(model.directory))
    write_atomically(volume / layout.PREPARED_STATS, to_json(stats) + "\n")
    logger.info(
        "[4/4] prepared %s sequences to train and %s to evaluate on: %s optimizer steps per epoch, %s in all",
        stats.sequences,
        stats.evaluation_sequences,
        stats.steps_per_epoch,
        stats.max_steps,
    )
    return stats


def _tokenized(config: RunConfig, environment: Environment, model: ResolvedModel) -> Data:
    tokenizer = load_tokenizer(model.directory, trust_remote_code=config.model.trust_remote_code)
    limits = read_limits(model.directory)
    check_length(limits, config.training.max_length)

    train_files, evaluation_files = _files(config, environment)
    files = (*train_files, *evaluation_files)
    megabytes = sum(file.path.stat().st_size for file in files) / 1e6
    logger.info("[2/4] data %s: %s file(s), %.1f MB", config.dataset.sources[0].source, len(files), megabytes)

    train = tokenize(train_files, config, tokenizer, config.dataset.sources[0].max_samples)
    held_out = tokenize(evaluation_files, config, tokenizer, None) if evaluation_files else None
    read = (train,) if held_out is None else (train, held_out)
    for part in read:
        check_vocabulary(limits, largest_token(part.table))
    train_rows, evaluation_rows = split(train, held_out, config)
    data = Data(read=read, train=train_rows, evaluation=evaluation_rows, fingerprint=fingerprint(files))
    _tell(data, config, tokenizer)
    return data


def _files(config: RunConfig, environment: Environment) -> tuple[Sequence[DataFile], Sequence[DataFile]]:
    """The files to train and to evaluate on; no files of the second kind when rows of the first are held out."""
    part, source = config.dataset.sources[0], config.dataset.evaluation.source
    train = resolve_dataset(part.source, part.revision, config, environment)
    return train, resolve_dataset(source, part.revision, config, environment) if source is not None else ()


def _tell(data: Data, config: RunConfig, tokenizer: Any) -> None:
    train = data.read[0]
    tokens = count_tokens(data.train)
    logger.info(
        "[3/4] %s rows of format %s: %s tokens to train on, %.1f %% of them with a label",
        train.table.num_rows,
        train.format,
        tokens,
        100 * count_trained_tokens(data.train) / tokens,
    )
    if data.evaluation is not None:
        logger.info("      held out: %s rows, %s tokens", data.evaluation.num_rows, count_tokens(data.evaluation))
    limit = config.training.max_length
    if truncated := sum(part.truncated for part in data.read):
        logger.info("      cut at training.maxLength %s: %s rows", limit, truncated)
    if untrained := sum(part.untrained for part in data.read):
        logger.info("      left out, nothing to train on within the first %s tokens: %s rows", limit, untrained)
    shown = marked(train.example, tokenizer).replace("\n", "\\n")
    shown = shown if len(shown) <= _EXAMPLE_CHARACTERS else shown[:_EXAMPLE_CHARACTERS] + " ..."
    logger.info("      example %s, trained between >> and <<: %s", train.example.place, shown)


def _save(table: Any | None, config: RunConfig, directory: Path) -> int:
    """Write the sequences of `table` to `directory`; returns how many there are."""
    if table is None:
        return 0
    dataset = to_dataset(table, config)
    dataset.save_to_disk(directory)
    sync_tree(directory)
    return len(dataset)


def _stats(config: RunConfig, data: Data, sequences: int, evaluation_sequences: int) -> PreparedStats:
    per_epoch = plan.steps_per_epoch(sequences, config.training, devices(config))
    return PreparedStats(
        version=STATS_VERSION,
        format=data.read[0].format,
        rows=data.read[0].table.num_rows,
        train_rows=data.train.num_rows,
        evaluation_rows=0 if data.evaluation is None else data.evaluation.num_rows,
        truncated_rows=sum(part.truncated for part in data.read),
        sequences=sequences,
        evaluation_sequences=evaluation_sequences,
        tokens=count_tokens(data.train),
        trained_tokens=count_trained_tokens(data.train),
        steps_per_epoch=per_epoch,
        max_steps=plan.max_steps(per_epoch, config.training),
        dataset_fingerprint=data.fingerprint,
    )


def _snapshot(model: ResolvedModel, cache: Path) -> str | None:
    """Where a downloaded model lies, relative to the cache."""
    return str(model.directory.relative_to(cache)) if model.revision is not None else None


def _prepared_before(config: RunConfig, environment: Environment) -> PreparedStats | None:
    """The statistics on the volume, if they are of this config and this data.

    What came from a hub is not looked at again: a retry must not train on something newer than the first attempt.
    """
    volume = environment.volume
    try:
        stats = from_json(PreparedStats, (volume / layout.PREPARED_STATS).read_bytes(), ignore_unknown=True)
        written = yaml.safe_load((volume / layout.RUN_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ContractError, yaml.YAMLError):
        return None
    if stats.version != STATS_VERSION or written != encode(config):
        return None
    if any(source.startswith(layout.HUB_SCHEME) for source in data_sources(config)):
        return stats
    train_files, evaluation_files = _files(config, environment)
    return stats if fingerprint((*train_files, *evaluation_files)) == stats.dataset_fingerprint else None

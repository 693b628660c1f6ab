"""The Prepare stage: fetch the model, check and tokenize the data, and say what the run will be. Needs no GPU."""

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from sftjob_contract import layout
from sftjob_contract.batches import micro_batches
from sftjob_contract.codec import ContractError, encode, from_json, sha256_of, to_json
from sftjob_contract.config import DataFormat, RunConfig
from sftjob_contract.method import Lora
from sftjob_contract.model_shape import ModelShape
from sftjob_contract.names import Stage
from sftjob_contract.outcome import Outcome
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import STATS_VERSION, PreparedStats
from sftjob_trainer import outcome, plan
from sftjob_trainer.added_tokens import PLAIN, SPECIAL, added, keeps_tied
from sftjob_trainer.chat_template import given_template
from sftjob_trainer.config_check import check_config
from sftjob_trainer.configuration import data_sources, devices
from sftjob_trainer.construction_check import check_construction
from sftjob_trainer.data import Data, Files, find_files, load_data
from sftjob_trainer.disk import free_bytes
from sftjob_trainer.durable import sync_tree, write_atomically
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.files import Names
from sftjob_trainer.filters import Sieve
from sftjob_trainer.hardware import best_machine, choose
from sftjob_trainer.image import check_packed_layers, image_packages
from sftjob_trainer.label_report import (
    CHATS,
    LabelReport,
    check_stop_token,
    examples,
    label_report,
    marked,
    stop_tokens,
)
from sftjob_trainer.length_report import data_warnings
from sftjob_trainer.limits import check_length, check_prompts, check_vocabulary, grown, model_settings, read_limits
from sftjob_trainer.loftq import check_weight_files
from sftjob_trainer.lora import check_layers
from sftjob_trainer.model_shape import read_layers, read_model_shape, read_unfrozen, with_new_tokens
from sftjob_trainer.outputs import write_run_config
from sftjob_trainer.packing_check import check_packing
from sftjob_trainer.preprocessing import code_fingerprint
from sftjob_trainer.quantized_base import base_quantization, check_base
from sftjob_trainer.questions import prompt_tokens, save_prompts, save_questions
from sftjob_trainer.rope import check_scaling
from sftjob_trainer.schedule import check_schedule
from sftjob_trainer.sequences import count_tokens, count_trained_tokens, largest_token, to_dataset
from sftjob_trainer.sources import ResolvedModel, is_downloaded, resolve_model
from sftjob_trainer.start import fetch_checkpoint, fetch_teacher
from sftjob_trainer.template_rendering import without_markers
from sftjob_trainer.tokenization import cuts_otherwise, load_tokenizer, new_tokens, own_tokenizer
from sftjob_trainer.tokenizing import Tokenized, Workshop

logger = logging.getLogger(__name__)

_EXAMPLE_CHARACTERS: Final = 800
_NAMES_IN_A_LINE: Final = 20
_OF_ONE_LAYER: Final = re.compile(r"(^|\.)\d+(\.|$)")
_SCRATCH: Final = PurePosixPath(layout.PREPARED, "scratch")
"""Tokenized rows while they are on their way into sequences. What a stage leaves here when it is broken off is used by
the next one of the same config, data, model and libraries."""


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
    told = replace(stats, free_bytes=free_bytes(environment.volume), publish_stage=True)
    return replace(outcome.done(Stage.PREPARE), prepared=told)


def _prepare(config: RunConfig, environment: Environment) -> PreparedStats:
    volume = environment.volume
    (volume / layout.PREPARED_STATS).unlink(missing_ok=True)
    _clear(volume / layout.PREPARED, but=_SCRATCH.name)
    write_run_config(config, volume)
    choose(config, best_machine(config))

    model = resolve_model(config, environment)
    at = f" at commit {model.revision}" if model.revision else ""
    logger.info("[1/4] model %s%s", config.model.source, at)
    check_config(model.directory, trust_remote_code=config.model.trust_remote_code)
    settings = model_settings(model.directory)
    check_base(config, base_quantization(settings, model.directory))
    check_weight_files(config, model.directory)
    check_scaling(model.directory, config.model)
    check_packed_layers(config, str(settings.get("model_type")), image_packages())
    shape = read_model_shape(model.directory)
    new, rows = _new_tokens(config, model)
    lora = config.method.lora
    if lora is not None and shape is not None:
        check_layers(_without_numbers(lora), read_layers(model.directory))
    check_packing(config, model.directory)
    teacher = fetch_teacher(config, environment, model)
    if teacher is not None:
        check_length(read_limits(teacher.directory), config.training.max_length, "method.distillation.teacher")
    fetch_checkpoint(config, environment, model.directory)
    found = shape is not None and lora is not None and _without_numbers(lora) == lora
    check_construction(config, model.directory, layers_known=lora is None or found)
    try:
        data, report = _tokenized(config, environment, model, rows)
        train_sequences = _save(data.train, config, volume, layout.PREPARED_TRAIN)
        _check_batch(train_sequences, config)
        evaluation_sequences = _save(data.evaluation, config, volume, layout.PREPARED_EVALUATION)
        save_questions(data.evaluation, config.evaluation, volume)
        save_prompts(data.evaluation, config.evaluation, volume)
    except Failure:
        shutil.rmtree(volume / _SCRATCH, ignore_errors=True)
        raise
    shutil.rmtree(volume / _SCRATCH)
    stats = _stats(config, data, train_sequences, evaluation_sequences)
    stats = replace(
        stats,
        model_snapshot=_snapshot(model, environment.cache),
        teacher_snapshot=None if teacher is None else _snapshot(teacher, environment.cache),
        model_revision=model.revision,
        model_shape=_with_new_tokens(_planned(shape, config, model.directory), model.directory, new, rows),
        embedding_rows=rows,
    )
    check_schedule(stats.max_steps, config.training)
    _check_sample_prompts(config, stats, model, volume)
    _write_report(report, stats, config, volume)
    write_atomically(volume / layout.PREPARED_STATS, to_json(stats) + "\n")
    logger.info(
        "[4/4] prepared %s sequences to train and %s to evaluate on: %s optimizer steps per epoch, %s in all",
        stats.sequences,
        stats.evaluation_sequences,
        stats.steps_per_epoch,
        stats.max_steps,
    )
    return stats


def _check_sample_prompts(config: RunConfig, stats: PreparedStats, model: ResolvedModel, volume: Path) -> None:
    """See that the model has positions for the prompts that the job names.

    Raises:
        Failure: one is too long.
    """
    if config.evaluation.sample_prompts:
        prompts = prompt_tokens(config, stats, _tokenizer(config, model, volume))
        check_prompts(read_limits(model.directory, config.model.rope_scaling), [len(ids) for ids in prompts])


def _new_tokens(config: RunConfig, model: ResolvedModel) -> tuple[Mapping[str, int], int | None]:
    """Ids of the tokens that the job adds to the model, and how many rows its embedding gets; None: as many as it has.

    Raises:
        Failure: the tokenizer does not take one, or a teacher would have to know them.
    """
    new = new_tokens(model.directory, config.model)
    limits = read_limits(model.directory)
    rows = grown(limits, new.values())
    if known := [token for token in added(config.model) if token not in new]:
        logger.info("      in the tokenizer already, and taken as they are: %s", ", ".join(known))
    if new:
        logger.info("      added to the tokenizer: %s", ", ".join(f"{token} (id {new[token]})" for token in new))
        room = "has" if rows is None else f"grows from {limits.vocabulary} to"
        logger.info("      the embedding %s %s rows, and is trained", room, rows or limits.vocabulary)
    if new and config.method.distillation is not None:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"method.distillation: {next(iter(new))} is new to the model, and a teacher has no such token; remove "
            f"{PLAIN} and {SPECIAL}, or train without a teacher",
        )
    return new, rows


def _planned(shape: ModelShape | None, config: RunConfig, directory: Path) -> ModelShape | None:
    """The shape to plan memory with, and which of the weights are trained if that is a part of them."""
    patterns = config.method.unfrozen_parameters
    if shape is None or patterns is None:
        return shape
    unfrozen = read_unfrozen(directory, patterns)
    if unfrozen is None:
        logger.info(
            "      memory is not planned for, since method.full.unfrozenParameters names other weights than the files"
        )
        return None
    return replace(shape, unfrozen=unfrozen)


def _with_new_tokens(
    shape: ModelShape | None, directory: Path, new: Mapping[str, int], rows: int | None
) -> ModelShape | None:
    """`shape` with the `new` tokens, for which embedding and head of the model in `directory` get so many `rows`."""
    if shape is None or not new:
        return shape
    return with_new_tokens(shape, rows, next(filter(keeps_tied, read_layers(directory).weighted), ""))


def _without_numbers(lora: Lora) -> Lora:
    """`lora` without the names of single layers, which weight files and the loaded model may begin differently."""
    return replace(
        lora,
        target_modules=tuple(name for name in lora.target_modules if not _OF_ONE_LAYER.search(name)),
        modules_to_save=tuple(name for name in lora.modules_to_save if not _OF_ONE_LAYER.search(name)),
    )


def _tokenized(
    config: RunConfig, environment: Environment, model: ResolvedModel, rows: int | None
) -> tuple[Data, LabelReport]:
    tokenizer = _tokenizer(config, model, environment.volume)
    limits = read_limits(model.directory, config.model.rope_scaling)
    limits = limits if rows is None else replace(limits, vocabulary=rows)
    check_length(limits, config.training.max_length)

    files = find_files(config, environment)
    _tell_files(files)
    if cuts_otherwise(own_tokenizer(model.directory, config.model), model.directory):
        logger.warning(
            "      the %s that transformers makes for this model cuts text otherwise than its tokenizer.json; "
            "trained is what transformers makes of it, and that tokenizer is kept with the output",
            type(tokenizer).__name__,
        )
    workshop = Workshop(
        config=config,
        tokenizer=tokenizer,
        sieve=Sieve(config.dataset),
        directory=_scratch(config, files, model, environment.volume),
    )
    data = load_data(files, workshop)
    for part in data.read:
        check_vocabulary(limits, largest_token(part.table))
    _tell(data, config, tokenizer)
    report = label_report(data.train, stop_tokens(tokenizer, model.directory))
    for line in report.lines():
        logger.info("      %s", line)
    write_atomically(environment.volume / layout.PREPARED_EXAMPLES, examples(data.train, tokenizer))
    truncated = sum(part.truncated for part in data.trained)
    check_stop_token(report, _strictest(data), config, all_cut=truncated == _rows(data.trained))
    return data, report


def _check_batch(sequences: int, config: RunConfig) -> None:
    """See that there are enough sequences for one forward pass on every device.

    Raises:
        Failure: there are not, so batches would be smaller than the config says.
    """
    batch = micro_batches(config)[0] * devices(config)
    if sequences < batch:
        enough = sequences // devices(config)
        instead = f", or set training.perDeviceBatchSize to {enough}" if enough else ""
        raise Failure(
            Reason.DATA_INVALID,
            f"dataset: {sequences} sequences to train on are fewer than one batch of {batch}; add rows{instead}",
        )


def _write_report(report: LabelReport, stats: PreparedStats, config: RunConfig, volume: Path) -> None:
    lines = list(report.lines())
    if config.training.packing:
        filled = stats.tokens / (stats.sequences * config.training.max_length)
        lines.append(f"packed: {stats.train_rows} rows in {stats.sequences} sequences, {100 * filled:.1f} % filled")
        logger.info("      %s", lines[-1])
    write_atomically(volume / layout.PREPARED_REPORT, "".join(f"{line}\n" for line in lines))


def _scratch(config: RunConfig, files: Files, model: ResolvedModel, volume: Path) -> Path:
    """Where rows are tokenized; what was left there for anything else is removed."""
    of = {"config": config, "data": files.fingerprint, "model": model.revision, "libraries": outcome.library_versions()}
    directory = volume / _SCRATCH / sha256_of(of)
    if directory.is_dir():
        logger.info("      an earlier attempt was broken off; rows that it tokenized are used")
    _clear(directory.parent, but=directory.name)
    return directory


def _clear(directory: Path, *, but: str) -> None:
    """Remove what is in `directory`, but for the entry `but`."""
    for entry in directory.iterdir() if directory.is_dir() else ():
        if entry.name == but:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _tokenizer(config: RunConfig, model: ResolvedModel, volume: Path) -> Any:
    """The model's tokenizer with the chat template that is asked for, which is kept for the Train stage."""
    tokenizer = load_tokenizer(model.directory, config.model)
    if config.model.chat_template is not None:
        template = given_template(config.model.chat_template, tokenizer, config.model.chat_template_kwargs)
        write_atomically(volume / layout.PREPARED_CHAT_TEMPLATE, without_markers(template))
        tokenizer.chat_template = template
    return tokenizer


def _tell_files(files: Files) -> None:
    step = "[2/4]"
    for part, found in (*files.train, *files.evaluation):
        megabytes = sum(file.path.stat().st_size for file in found.files) / 1e6
        logger.info("%s data %s: %s file(s), %.1f MB", step, part.source.source, len(found.files), megabytes)
        step = "     "
        _tell_names(found.names)


def _tell_names(names: Names) -> None:
    """What of a folder is read, and the name of every file that is not."""
    if names.split is not None:
        logger.info("      the split %s of %s", names.split, ", ".join(names.splits))
    for first in range(0, len(names.passed_over), _NAMES_IN_A_LINE):
        logger.info("      not read: %s", ", ".join(names.passed_over[first : first + _NAMES_IN_A_LINE]))


def _tell(data: Data, config: RunConfig, tokenizer: Any) -> None:
    tokens = count_tokens(data.train)
    logger.info(
        "[3/4] %s rows of format %s: %s tokens to train on, %.1f %% of them with a label",
        _rows(data.trained),
        ", ".join(dict.fromkeys(part.format for part in data.trained)),
        tokens,
        100 * count_trained_tokens(data.train) / tokens,
    )
    if len(data.trained) > 1:
        for part in data.trained:
            logger.info(
                "      of %s: %s rows, each used %g times", part.source.source, part.table.num_rows, part.source.weight
            )
    if data.evaluation is not None:
        logger.info("      held out: %s rows, %s tokens", data.evaluation.num_rows, count_tokens(data.evaluation))
    limit = config.training.max_length
    if truncated := sum(part.truncated for part in data.read):
        logger.info("      cut at training.maxLength %s: %s rows", limit, truncated)
    if untrained := sum(part.untrained for part in data.read):
        logger.info("      left out, nothing to train on within the first %s tokens: %s rows", limit, untrained)
    if rendered := sum(part.rendered for part in data.read):
        logger.info(
            "      rendered with the chat template, the prompt as a user's and the completion as an assistant's turn: "
            "%s rows; dataset.render: plain keeps them as they are",
            rendered,
        )
    for clause in data.sieve.left_out():
        logger.info("      left out: %s", clause)
    for warning in data_warnings(data.read, limit):
        logger.warning("      %s", warning)
    for part in data.trained:
        _tell_example(part, config, tokenizer)


def _tell_example(part: Tokenized, config: RunConfig, tokenizer: Any) -> None:
    if part.example is not None:
        shown = marked(part.example, tokenizer).replace("\n", "\\n")
        shown = shown if len(shown) <= _EXAMPLE_CHARACTERS else shown[:_EXAMPLE_CHARACTERS] + " ..."
        logger.info("      example %s, trained between >> and <<: %s", part.example.place, shown)
    if config.model.chat_template is not None and part.format not in CHATS and not part.rendered:
        logger.info("      model.chatTemplate: not used for rows of format %s, only left with the model", part.format)


def _rows(parts: Sequence[Tokenized]) -> int:
    return sum(part.table.num_rows for part in parts)


def _strictest(data: Data) -> DataFormat:
    """The format of the first source that is not text, which alone need not end in a stop token."""
    if any(part.rendered for part in data.trained):
        return DataFormat.MESSAGES
    formats = [part.format for part in data.trained]
    return next((shape for shape in formats if shape is not DataFormat.TEXT), DataFormat.TEXT)


def _save(table: Any | None, config: RunConfig, volume: Path, place: str) -> int:
    """Write the sequences of `table` to `place` on the volume; returns how many there are."""
    if table is None:
        return 0
    directory = volume / place
    dataset = to_dataset(table, config, volume / _SCRATCH / f"{directory.name}-packed.arrow")
    dataset.save_to_disk(directory)
    sync_tree(directory)
    return len(dataset)


def _stats(config: RunConfig, data: Data, sequences: int, evaluation_sequences: int) -> PreparedStats:
    per_epoch = plan.steps_per_epoch(sequences, config.training, devices(config))
    return PreparedStats(
        version=STATS_VERSION,
        format=data.trained[0].format,
        rows=_rows(data.trained),
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
        skipped_rows=data.sieve.counts.skipped,
        refused_rows=data.sieve.counts.refused,
        duplicate_rows=data.sieve.counts.duplicates,
        filtered_rows=data.sieve.counts.filtered,
        rendered_rows=sum(part.rendered for part in data.read),
        passed_over_files=data.passed_over_files,
        warnings=tuple(data_warnings(data.read, config.training.max_length)),
        code_fingerprint=data.code_fingerprint,
    )


def _snapshot(model: ResolvedModel, cache: Path) -> str | None:
    """Where a downloaded model lies, relative to the cache; of which the hub's client gives the path without links."""
    return str(model.directory.resolve().relative_to(cache.resolve())) if model.downloaded else None


def _prepared_before(config: RunConfig, environment: Environment) -> PreparedStats | None:
    """The statistics on the volume, if they are of this config and this data.

    What was downloaded is not looked at again: a retry must not train on something newer than the first attempt.
    """
    volume = environment.volume
    try:
        stats = from_json(PreparedStats, (volume / layout.PREPARED_STATS).read_bytes(), ignore_unknown=True)
        written = yaml.safe_load((volume / layout.RUN_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ContractError, yaml.YAMLError):
        return None
    if stats.version != STATS_VERSION or written != encode(config):
        return None
    if code_fingerprint(config.dataset.sources) != stats.code_fingerprint:
        return None
    if any(is_downloaded(source) for source in data_sources(config)):
        return stats
    return stats if find_files(config, environment).fingerprint == stats.dataset_fingerprint else None

"""The Prepare stage: fetch the model, check and tokenize the data, and plan the run. Needs no GPU."""

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, encode, from_json, sha256_of, to_json
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.model_shape import ModelShape
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.stats import STATS_VERSION, PreparedStats
from sftjob_contract.run.batches import devices, packed_by_best_fit
from sftjob_contract.run.config import DataFormat, RunConfig
from sftjob_contract.run.method import Lora
from sftjob_contract.run.sources import data_sources
from sftjob_trainer.evaluation.prompts import prompt_tokens, save_prompts, save_questions
from sftjob_trainer.models.added_tokens import PLAIN, SPECIAL, keeps_head_tied, tokens_to_add
from sftjob_trainer.models.config_check import check_config
from sftjob_trainer.models.hardware import best_machine, choose
from sftjob_trainer.models.limits import (
    check_length,
    check_prompts,
    check_vocabulary,
    model_settings,
    read_limits,
    rows_after_adding,
)
from sftjob_trainer.models.lora import check_layers
from sftjob_trainer.models.packing.check import check_packing
from sftjob_trainer.models.quantized_base import base_quantization, check_base
from sftjob_trainer.models.rope import check_scaling
from sftjob_trainer.models.shape import read_layers, read_model_shape, read_unfrozen, with_new_tokens
from sftjob_trainer.output.export import write_run_config
from sftjob_trainer.preflight.construction_check import check_construction
from sftjob_trainer.preflight.data_log import log_data, log_files, rows_of
from sftjob_trainer.preflight.schedule import check_schedule
from sftjob_trainer.process import termination
from sftjob_trainer.process.atomic_files import sync_tree, write_atomically
from sftjob_trainer.process.disk import free_bytes
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.image import check_packed_layers, image_packages
from sftjob_trainer.rows import steps
from sftjob_trainer.rows.filters import RowFilter
from sftjob_trainer.rows.preprocessing import code_fingerprint
from sftjob_trainer.sources.resolve import ResolvedModel, is_downloaded, resolve_model
from sftjob_trainer.tokens.chat_template import load_chat_template
from sftjob_trainer.tokens.dataset import DataFiles, TokenizedData, find_files, load_data
from sftjob_trainer.tokens.label_report import (
    LabelReport,
    check_stop_token,
    examples,
    label_report,
    stop_tokens,
)
from sftjob_trainer.tokens.length_report import data_warnings
from sftjob_trainer.tokens.packing import count_tokens, count_trained_tokens, largest_token, to_dataset
from sftjob_trainer.tokens.template_rendering import without_markers
from sftjob_trainer.tokens.tokenize import TokenizeContext
from sftjob_trainer.tokens.tokenizer import load_original_tokenizer, load_tokenizer, new_tokens, tokenizes_differently
from sftjob_trainer.training.loftq import check_weight_files
from sftjob_trainer.training.starting_point import fetch_checkpoint, fetch_teacher

logger = logging.getLogger(__name__)

_NUMBERED_LAYER: Final = re.compile(r"(^|\.)\d+(\.|$)")
_SCRATCH: Final = PurePosixPath(layout.PREPARED, "scratch")
"""Tokenized rows before they become sequences. An interrupted stage leaves them here for the next one with the same
config, data, model and libraries."""


def prepare(config: RunConfig, environment: Environment) -> Outcome:
    """Write the prepared dataset to the volume, its statistics last. A repeated run does nothing.

    Raises:
        StageError: model or data are unavailable, or unusable with this config.
    """
    stats = _read_prepared(config, environment)
    if stats is None:
        stats = _prepare(config, environment)
    else:
        logger.info("already prepared: %s sequences, %s steps; nothing to do", stats.sequences, stats.max_steps)
    reported = replace(stats, free_bytes=free_bytes(environment.volume), publish_stage=True)
    return replace(termination.succeeded(Stage.PREPARE), prepared=reported)


def _prepare(config: RunConfig, environment: Environment) -> PreparedStats:
    volume = environment.volume
    (volume / layout.PREPARED_STATS).unlink(missing_ok=True)
    _clear(volume / layout.PREPARED, keep=_SCRATCH.name)
    write_run_config(config, volume)
    choose(config, best_machine(config))

    model = resolve_model(config, environment)
    revision = f" at commit {model.revision}" if model.revision else ""
    logger.info("[1/4] model %s%s", config.model.source, revision)
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
        check_layers(_without_numbered_layers(lora), read_layers(model.directory))
    check_packing(config, model.directory)
    teacher = fetch_teacher(config, environment, model)
    if teacher is not None:
        check_length(read_limits(teacher.directory), config.training.max_length, "method.distillation.teacher")
    fetch_checkpoint(config, environment, model.directory)
    found = shape is not None and lora is not None and _without_numbered_layers(lora) == lora
    check_construction(config, model.directory, layers_known=lora is None or found)
    try:
        data, report = _tokenize(config, environment, model, rows)
        train_sequences = _save(data.train, config, volume, layout.PREPARED_TRAIN)
        _check_batch(train_sequences, config)
        evaluation_sequences = _save(data.evaluation, config, volume, layout.PREPARED_EVALUATION)
        save_questions(data.evaluation, config.evaluation, volume)
        save_prompts(data.evaluation, config.evaluation, volume)
    except StageError:
        shutil.rmtree(volume / _SCRATCH, ignore_errors=True)
        raise
    shutil.rmtree(volume / _SCRATCH)
    stats = _stats(config, data, train_sequences, evaluation_sequences)
    stats = replace(
        stats,
        model_snapshot=_snapshot_path(model, environment.cache),
        teacher_snapshot=None if teacher is None else _snapshot_path(teacher, environment.cache),
        model_revision=model.revision,
        model_shape=_with_new_tokens(_shape_for_plan(shape, config, model.directory), model.directory, new, rows),
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
    """Check that the model has positions for the job's sample prompts.

    Raises:
        StageError: one is too long.
    """
    if config.evaluation.sample_prompts:
        prompts = prompt_tokens(config, stats, _tokenizer(config, model, volume))
        check_prompts(read_limits(model.directory, config.model.rope_scaling), [len(ids) for ids in prompts])


def _new_tokens(config: RunConfig, model: ResolvedModel) -> tuple[Mapping[str, int], int | None]:
    """Ids of the tokens that the job adds to the model, and its new number of embedding rows; None if unchanged.

    Raises:
        StageError: the tokenizer refuses a token, or a teacher would have to know the tokens.
    """
    new = new_tokens(model.directory, config.model)
    limits = read_limits(model.directory)
    rows = rows_after_adding(limits, new.values())
    if known := [token for token in tokens_to_add(config.model) if token not in new]:
        logger.info("      already in the tokenizer, and unchanged: %s", ", ".join(known))
    if new:
        logger.info("      added to the tokenizer: %s", ", ".join(f"{token} (id {new[token]})" for token in new))
        room = "has" if rows is None else f"grows from {limits.vocabulary} to"
        logger.info("      the embedding %s %s rows, and is trained", room, rows or limits.vocabulary)
    if new and config.method.distillation is not None:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"method.distillation: {next(iter(new))} is new to the model, and a teacher has no such token; remove "
            f"{PLAIN} and {SPECIAL}, or train without a teacher",
        )
    return new, rows


def _shape_for_plan(shape: ModelShape | None, config: RunConfig, directory: Path) -> ModelShape | None:
    """The shape for planning memory, including which weights are trained if only some are."""
    patterns = config.method.unfrozen_parameters
    if shape is None or patterns is None:
        return shape
    unfrozen = read_unfrozen(directory, patterns)
    if unfrozen is None:
        logger.info(
            "      there is no memory plan, since method.full.unfrozenParameters names other weights than the files"
        )
        return None
    return replace(shape, unfrozen=unfrozen)


def _with_new_tokens(
    shape: ModelShape | None, directory: Path, new: Mapping[str, int], rows: int | None
) -> ModelShape | None:
    """`shape` with the `new` tokens, for which embedding and head of the model in `directory` grow to `rows` rows."""
    if shape is None or not new:
        return shape
    return with_new_tokens(shape, rows, next(filter(keeps_head_tied, read_layers(directory).weighted), ""))


def _without_numbered_layers(lora: Lora) -> Lora:
    """`lora` without names of single layers, whose prefixes may differ between weight files and the loaded model."""
    return replace(
        lora,
        target_modules=tuple(name for name in lora.target_modules if not _NUMBERED_LAYER.search(name)),
        modules_to_save=tuple(name for name in lora.modules_to_save if not _NUMBERED_LAYER.search(name)),
    )


def _tokenize(
    config: RunConfig, environment: Environment, model: ResolvedModel, rows: int | None
) -> tuple[TokenizedData, LabelReport]:
    tokenizer = _tokenizer(config, model, environment.volume)
    limits = read_limits(model.directory, config.model.rope_scaling)
    limits = limits if rows is None else replace(limits, vocabulary=rows)
    check_length(limits, config.training.max_length)

    files = find_files(config, environment)
    log_files(files)
    if tokenizes_differently(load_original_tokenizer(model.directory, config.model), model.directory):
        logger.warning(
            "      the %s that transformers makes for this model splits text differently than its tokenizer.json; "
            "trained is what transformers makes of it, and that tokenizer is kept with the output",
            type(tokenizer).__name__,
        )
    context = TokenizeContext(
        config=config,
        tokenizer=tokenizer,
        row_filter=RowFilter(config.dataset),
        directory=_scratch_directory(config, files, model, environment.volume),
    )
    data = load_data(files, context)
    for part in data.read:
        check_vocabulary(limits, largest_token(part.table))
    log_data(data, config, tokenizer)
    report = label_report(data.train, stop_tokens(tokenizer, model.directory))
    for line in report.lines():
        logger.info("      %s", line)
    write_atomically(environment.volume / layout.PREPARED_EXAMPLES, examples(data.train, tokenizer))
    truncated = sum(part.truncated for part in data.trained)
    check_stop_token(report, _strictest(data), config, all_cut=truncated == rows_of(data.trained))
    return data, report


def _check_batch(sequences: int, config: RunConfig) -> None:
    """Check that there are enough sequences for one forward pass on every device; packed ones, for a shorter one.

    Raises:
        StageError: there are not, so batches would be smaller than configured.
    """
    batch = (1 if packed_by_best_fit(config) else config.training.per_device_batch_size) * devices(config)
    if sequences < batch:
        enough = sequences // devices(config)
        alternative = f", or set training.perDeviceBatchSize to {enough}" if enough else ""
        raise StageError(
            Reason.DATA_INVALID,
            f"dataset: {sequences} sequences to train on are fewer than one batch of {batch}; add rows{alternative}",
        )


def _write_report(report: LabelReport, stats: PreparedStats, config: RunConfig, volume: Path) -> None:
    lines = list(report.lines())
    if config.training.packing:
        filled = stats.tokens / (stats.sequences * config.training.max_length)
        lines.append(f"packed: {stats.train_rows} rows in {stats.sequences} sequences, {100 * filled:.1f} % filled")
        logger.info("      %s", lines[-1])
    write_atomically(volume / layout.PREPARED_REPORT, "".join(f"{line}\n" for line in lines))


def _scratch_directory(config: RunConfig, files: DataFiles, model: ResolvedModel, volume: Path) -> Path:
    """Directory for tokenizing rows; anything left there by another run is removed."""
    key = {
        "config": config,
        "data": files.fingerprint,
        "model": model.revision,
        "libraries": termination.library_versions(),
    }
    directory = volume / _SCRATCH / sha256_of(key)
    if directory.is_dir():
        logger.info("      an earlier attempt was interrupted; the rows that it tokenized are reused")
    _clear(directory.parent, keep=directory.name)
    return directory


def _clear(directory: Path, *, keep: str) -> None:
    """Remove the content of `directory`, except the entry `keep`."""
    for entry in directory.iterdir() if directory.is_dir() else ():
        if entry.name == keep:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _tokenizer(config: RunConfig, model: ResolvedModel, volume: Path) -> Any:
    """The model's tokenizer with the configured chat template, which is saved for the Train stage."""
    tokenizer = load_tokenizer(model.directory, config.model)
    if config.model.chat_template is not None:
        template = load_chat_template(config.model.chat_template, tokenizer, config.model.chat_template_kwargs)
        write_atomically(volume / layout.PREPARED_CHAT_TEMPLATE, without_markers(template))
        tokenizer.chat_template = template
    return tokenizer


def _strictest(data: TokenizedData) -> DataFormat:
    """The format of the first source that is not text: only text does not have to end with a stop token."""
    if any(part.rendered for part in data.trained):
        return DataFormat.MESSAGES
    formats = [part.format for part in data.trained]
    return next((shape for shape in formats if shape is not DataFormat.TEXT), DataFormat.TEXT)


def _save(table: Any | None, config: RunConfig, volume: Path, location: str) -> int:
    """Write the sequences of `table` to `location` on the volume; returns their number."""
    if table is None:
        return 0
    directory = volume / location
    dataset = to_dataset(table, config, volume / _SCRATCH / f"{directory.name}-packed.arrow")
    dataset.save_to_disk(directory)
    sync_tree(directory)
    return len(dataset)


def _stats(config: RunConfig, data: TokenizedData, sequences: int, evaluation_sequences: int) -> PreparedStats:
    per_epoch = steps.steps_per_epoch(sequences, config.training, devices(config))
    return PreparedStats(
        version=STATS_VERSION,
        format=data.trained[0].format,
        rows=rows_of(data.trained),
        train_rows=data.train.num_rows,
        evaluation_rows=0 if data.evaluation is None else data.evaluation.num_rows,
        truncated_rows=sum(part.truncated for part in data.read),
        sequences=sequences,
        evaluation_sequences=evaluation_sequences,
        tokens=count_tokens(data.train),
        trained_tokens=count_trained_tokens(data.train),
        steps_per_epoch=per_epoch,
        max_steps=steps.max_steps(per_epoch, config.training),
        dataset_fingerprint=data.fingerprint,
        skipped_rows=data.row_filter.counts.skipped,
        refused_rows=data.row_filter.counts.refused,
        duplicate_rows=data.row_filter.counts.duplicates,
        filtered_rows=data.row_filter.counts.filtered,
        rendered_rows=sum(part.rendered for part in data.read),
        passed_over_files=data.passed_over_files,
        warnings=tuple(data_warnings(data.read, config.training.max_length)),
        code_fingerprint=data.code_fingerprint,
    )


def _snapshot_path(model: ResolvedModel, cache: Path) -> str | None:
    """Path of a downloaded model relative to the cache; the hub's client returns it without links."""
    return str(model.directory.resolve().relative_to(cache.resolve())) if model.downloaded else None


def _read_prepared(config: RunConfig, environment: Environment) -> PreparedStats | None:
    """The statistics on the volume, if they belong to this config and this data.

    Downloads are not checked again: a retry must not train on newer content than the first attempt.
    """
    volume = environment.volume
    try:
        stats = from_json(PreparedStats, (volume / layout.PREPARED_STATS).read_bytes(), ignore_unknown=True)
        written_config = yaml.safe_load((volume / layout.RUN_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ContractError, yaml.YAMLError):
        return None
    if stats.version != STATS_VERSION or written_config != encode(config):
        return None
    if code_fingerprint(config.dataset.sources) != stats.code_fingerprint:
        return None
    if any(is_downloaded(source) for source in data_sources(config)):
        return stats
    return stats if find_files(config, environment).fingerprint == stats.dataset_fingerprint else None

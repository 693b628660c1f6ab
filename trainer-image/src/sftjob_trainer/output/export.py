"""The results of a finished run; each file or directory appears complete or not at all."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from sftjob_contract import layout
from sftjob_contract.codec import encode
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import Checkpoint
from sftjob_contract.run.config import Model, RunConfig
from sftjob_trainer.models.initial_adapter import INITIAL_ADAPTER, convert_to_original_base
from sftjob_trainer.output.full_model import match_base_format
from sftjob_trainer.output.model_card import CARD, CardContent, loadable_base, model_card
from sftjob_trainer.process.atomic_files import replace_directory, sync_tree, write_atomically
from sftjob_trainer.reporting.telemetry import SAVED_TELEMETRY
from sftjob_trainer.run.checkpoints import BrokenCheckpointError, best_step, verify

logger = logging.getLogger(__name__)

_ADAPTER_CONFIG: Final = "adapter_config.json"
_FOR_RESUMING_ONLY: Final = (
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "trainer_state.json",
    "training_args.bin",
    "README.md",
    layout.MANIFEST,
    SAVED_TELEMETRY,
    INITIAL_ADAPTER,
)
"""Files of a checkpoint that are not part of a model, and PEFT's unfilled README."""


def write_run_config(config: RunConfig, volume: Path) -> None:
    """Write `config.yaml`: the run config with every default resolved, for users."""
    text = yaml.safe_dump(encode(config), sort_keys=False, allow_unicode=True)
    write_atomically(volume / layout.RUN_CONFIG, text)


def final_checkpoint(complete: Sequence[Checkpoint], config: RunConfig, volume: Path) -> Path:
    """The checkpoint that becomes the output: the last one, or the best one with early stopping."""
    last = volume / complete[-1].path
    if config.training.early_stopping is None:
        return last
    step = best_step(complete)
    best = next((volume / checkpoint.path for checkpoint in complete if checkpoint.step == step), last)
    try:
        verify(best)
    except BrokenCheckpointError as broken:
        logger.warning("%s is the best but cannot be used (%s); the output is the last one", best.name, broken)
        return last
    return best


def publish(checkpoint: Path, content: CardContent, volume: Path, base: Path | None = None) -> Output:
    """Publish the final checkpoint's weights as the run's output, with a card, and write the final metrics.

    A fully fine-tuned model is converted to the form of the one in `base`. The output is copied from the checkpoint, so
    it is the same whether this attempt trained or only published.
    """
    config = content.config
    path = layout.OUTPUT_MODEL if config.method.lora is None else layout.OUTPUT_ADAPTER
    target = volume / path
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(
        checkpoint, staging, ignore=shutil.ignore_patterns(*_FOR_RESUMING_ONLY), copy_function=shutil.copyfile
    )
    if config.method.lora is not None:
        if (checkpoint / INITIAL_ADAPTER).is_file():
            convert_to_original_base(checkpoint / INITIAL_ADAPTER, staging, _ADAPTER_CONFIG)
        _name_base_model(staging / _ADAPTER_CONFIG, config.model)
    elif base is not None:
        match_base_format(staging, base, config.model.dtype)
    (staging / CARD).write_text(model_card(content, path), encoding="utf-8")
    sync_tree(staging)
    replace_directory(staging, target, backup=target.with_name(f".{target.name}.replaced"))
    shutil.copymode(target, target.parent)
    write_results(content.metrics, volume)
    return Output(path=path, metrics=content.metrics)


def write_results(metrics: Mapping[str, float], volume: Path) -> None:
    """Write `results/eval_results.json`: the final metrics, the same as in the status."""
    write_atomically(volume / layout.EVAL_RESULTS, json.dumps(dict(metrics), indent=2, allow_nan=False) + "\n")


def _name_base_model(adapter_config: Path, model: Model) -> None:
    """Replace the base model path in PEFT's config: the loading directory has no meaning outside this container.

    Libraries treat a name that is not a directory as a hub id, so a base on a claim has no name here. Users who load
    the adapter pass the base, as servers do.

    PEFT also writes the names of a set of modules, whose order changes between processes. They are sorted.
    """
    settings = json.loads(adapter_config.read_text(encoding="utf-8"))
    named = {**settings, "base_model_name_or_path": loadable_base(model), "revision": model.revision}
    if isinstance(targets := settings.get("target_modules"), list):
        named["target_modules"] = sorted(targets)
    adapter_config.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")

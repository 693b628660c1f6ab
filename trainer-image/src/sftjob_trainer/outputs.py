"""What a finished run leaves behind, each file or directory appearing complete or not at all."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from sftjob_contract import layout
from sftjob_contract.codec import encode
from sftjob_contract.config import Model, RunConfig
from sftjob_contract.outcome import Output
from sftjob_contract.progress import Checkpoint
from sftjob_trainer.card import CARD, Made, loadable_base, model_card
from sftjob_trainer.checkpoints import BrokenCheckpointError, best_step, verify
from sftjob_trainer.durable import replace_directory, sync_tree, write_atomically
from sftjob_trainer.full_output import as_its_base
from sftjob_trainer.initial_adapter import INITIAL_ADAPTER, for_the_published_base
from sftjob_trainer.telemetry import SAVED_TELEMETRY

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
"""Files of a checkpoint that are no part of a model, and PEFT's README with nothing filled in."""


def write_run_config(config: RunConfig, volume: Path) -> None:
    """`config.yaml`: the run config with every default resolved, for people."""
    text = yaml.safe_dump(encode(config), sort_keys=False, allow_unicode=True)
    write_atomically(volume / layout.RUN_CONFIG, text)


def final_checkpoint(complete: Sequence[Checkpoint], config: RunConfig, volume: Path) -> Path:
    """The checkpoint that becomes the output: the last one, or with early stopping the best."""
    last = volume / complete[-1].path
    if config.training.early_stopping is None:
        return last
    step = best_step(complete)
    best = next((volume / checkpoint.path for checkpoint in complete if checkpoint.step == step), last)
    try:
        verify(best)
    except BrokenCheckpointError as broken:
        logger.warning("%s is the best but can not be used (%s); the output is the last one", best.name, broken)
        return last
    return best


def publish(checkpoint: Path, made: Made, volume: Path, base: Path | None = None) -> Output:
    """Make the final checkpoint's weights the run's output, with a card, and write the final metrics.

    A model that was trained as a whole gets the form of the one in `base`. The output is copied from the checkpoint, so
    it is the same whether this attempt trained or only came to finish.
    """
    config = made.config
    path = layout.OUTPUT_MODEL if config.method.lora is None else layout.OUTPUT_ADAPTER
    target = volume / path
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(
        checkpoint, staging, ignore=shutil.ignore_patterns(*_FOR_RESUMING_ONLY), copy_function=shutil.copyfile
    )
    if config.method.lora is not None:
        if (checkpoint / INITIAL_ADAPTER).is_file():
            for_the_published_base(checkpoint / INITIAL_ADAPTER, staging, _ADAPTER_CONFIG)
        _name_base_model(staging / _ADAPTER_CONFIG, config.model)
    elif base is not None:
        as_its_base(staging, base, config.model.dtype)
    (staging / CARD).write_text(model_card(made, path), encoding="utf-8")
    sync_tree(staging)
    replace_directory(staging, target, aside=target.with_name(f".{target.name}.replaced"))
    shutil.copymode(target, target.parent)
    write_results(made.metrics, volume)
    return Output(path=path, metrics=made.metrics)


def write_results(metrics: Mapping[str, float], volume: Path) -> None:
    """`results/eval_results.json`: the final metrics, the same as in the status."""
    write_atomically(volume / layout.EVAL_RESULTS, json.dumps(dict(metrics), indent=2, allow_nan=False) + "\n")


def _name_base_model(adapter_config: Path, model: Model) -> None:
    """PEFT wrote the directory that the base was loaded from, which means nothing outside of this container.

    Libraries take a name that is no directory for an id on the hub, so a base on a claim has no name here: who loads
    the adapter gives the base, as servers do.

    It wrote the names of a set of modules, too, whose order changes from process to process.
    """
    settings = json.loads(adapter_config.read_text(encoding="utf-8"))
    named = {**settings, "base_model_name_or_path": loadable_base(model), "revision": model.revision}
    if isinstance(targets := settings.get("target_modules"), list):
        named["target_modules"] = sorted(targets)
    adapter_config.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")

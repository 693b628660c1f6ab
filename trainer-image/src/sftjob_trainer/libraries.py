"""How libraries are made to behave in our containers: quiet, on the volume, and no larger than needed."""

import gc
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import RunConfig
from sftjob_contract.layout import HUB_SCHEME
from sftjob_contract.names import Stage
from sftjob_trainer.configuration import all_sources

_TRACKERS: Final = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
"""Trackers send what was asked for and nothing else; what fails is tried again by us, in the background."""


def library_variables(stage: Stage, config: RunConfig, cache: Path) -> Mapping[str, str]:
    """Environment variables to set before any library is imported: downloads in `cache`, no telemetry, no bars.

    Nothing goes out but what Prepare fetches from a hub: training is offline, and so is preparing without a hub.
    """
    fetches = stage is Stage.PREPARE and any(source.startswith(HUB_SCHEME) for source in all_sources(config))
    variables = {
        **_TRACKERS,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_OFFLINE": "0" if fetches else "1",
    }
    if stage is not Stage.PREPARE:
        return variables
    # Preparing without PyTorch is meant, and rows longer than the model allows are cut: neither needs a warning.
    return {**variables, "TRANSFORMERS_VERBOSITY": "error"}


def import_transformers_without_torch() -> None:
    """Import the tokenizer part of transformers as if PyTorch were not installed, which it supports.

    Preparing needs no tensor, and PyTorch costs more time and memory than everything else together. transformers
    decides once per process whether PyTorch is there, so this is for a process that never trains; when it is loaded
    already, nothing is done.
    """
    if "torch" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None
    try:
        from transformers import AutoTokenizer  # noqa: F401 -- imported for its effect
    finally:
        del modules["torch"]


@contextmanager
def importing() -> Iterator[None]:
    """Import without looking for garbage meanwhile: there is none, and looking takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def hide_wandb(config: RunConfig, *, leads: bool) -> None:
    """Import no Weights & Biases where nothing is tracked with it; transformers does wherever it is installed."""
    if config.tracking.wandb is None or not leads:
        _hide("wandb")


def hide_bitsandbytes(config: RunConfig, models: Sequence[Path]) -> None:
    """Import no bitsandbytes where nothing is quantized; PEFT does wherever it is installed, and it takes a second.

    `models` are directories that the run loads models from. Code that came with a model may want it for itself.
    """
    needed = (
        config.method.quantization is not None
        or config.training.optimizer.is_of_bitsandbytes
        or config.model.trust_remote_code
    )
    if not needed and not any(_is_quantized(directory) for directory in models):
        _hide("bitsandbytes")


def _is_quantized(model: Path) -> bool:
    """What can not be read is not for here to tell."""
    try:
        return "quantization_config" in json.loads((model / "config.json").read_bytes())
    except ValueError:
        return True


def _hide(package: str) -> None:
    """Make `package` seem to be absent, if it is not imported yet.

    Libraries ask whether it is there, again and again, so the answer is the same as long as this process lives.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault(package, None)

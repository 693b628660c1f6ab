"""Configure libraries for the trainer's containers: quiet, on the volume, and no larger than needed."""

import gc
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sftjob_contract.layout import HUB_SCHEME
from sftjob_contract.names import Stage
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.sources import all_sources

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
"""Trackers send only what is configured; the trainer retries failed calls in the background."""


def library_variables(stage: Stage, config: RunConfig, cache: Path) -> Mapping[str, str]:
    """Environment variables to set before any import of a library: downloads in `cache`, no telemetry, no bars.

    Only Prepare downloads from a hub: training is offline, and so is Prepare without a hub source. In a Pod, the
    operator has set HF_HOME, HF_HUB_DISABLE_TELEMETRY and, except for Prepare, HF_HUB_OFFLINE to the same values, since
    images without this trainer need them too.
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
    # Preparing without PyTorch is intended, and rows longer than the model allows are cut: neither needs a warning.
    return {**variables, "TRANSFORMERS_VERBOSITY": "error"}


def import_transformers_without_torch() -> None:
    """Import the tokenizer part of transformers as if PyTorch were not installed, which transformers supports.

    Prepare needs no tensors, and PyTorch takes more time and memory than everything else together. transformers decides
    once per process whether PyTorch is available, so use this only in a process that never trains. It does nothing if
    PyTorch is already loaded.
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
def gc_paused() -> Iterator[None]:
    """Disable garbage collection during imports: there is no garbage, and searching takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def hide_wandb(config: RunConfig, *, is_leader: bool) -> None:
    """Skip importing Weights & Biases unless it is the tracker; transformers imports it wherever it is installed."""
    if config.tracking.wandb is None or not is_leader:
        _hide("wandb")


def hide_torchao(config: RunConfig, models: Sequence[Path]) -> None:
    """Skip importing torchao unless a model is quantized; PEFT imports it if installed, which takes seconds.

    `models` as for `hide_bitsandbytes`. No option of a run needs torchao.
    """
    if not config.model.trust_remote_code and not any(_is_quantized(directory) for directory in models):
        _hide("torchao")


def hide_bitsandbytes(config: RunConfig, models: Sequence[Path]) -> None:
    """Skip importing bitsandbytes unless a model is quantized; PEFT imports it if installed, which takes a second.

    `models` are directories that the run loads models from. Code in a model repository may import it itself.
    """
    needed = (
        config.method.quantization is not None
        or config.training.optimizer.is_of_bitsandbytes
        or config.model.trust_remote_code
    )
    if not needed and not any(_is_quantized(directory) for directory in models):
        _hide("bitsandbytes")


def _is_quantized(model: Path) -> bool:
    """Whether the config of `model` is quantized. Unreadable configs are reported elsewhere."""
    try:
        return "quantization_config" in json.loads((model / "config.json").read_bytes())
    except ValueError:
        return True


def _hide(package: str) -> None:
    """Make `package` appear to be absent, if it is not imported yet.

    Libraries check repeatedly whether it is available, so the answer stays the same for the life of the process.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault(package, None)

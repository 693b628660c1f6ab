"""Check in Prepare, before a GPU is allocated, that TRL, PEFT and transformers accept the options of a run.

Builds the trainer as Train does, for a model without weights. This runs in a separate process, because Prepare does not
load PyTorch.
"""

import logging
from pathlib import Path
from typing import Final

from sftjob_contract.codec import to_json
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import Lora, LoraBias
from sftjob_trainer.models.added_tokens import tokens_to_add
from sftjob_trainer.models.packing.check import PROVEN, model_type
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.subprocess_check import NoResultError, run_check

logger = logging.getLogger(__name__)

_MODULE: Final = "sftjob_trainer.preflight.meta_model"
_LIMIT_SECONDS: Final = 300


def check_construction(config: RunConfig, directory: Path, *, layers_known: bool) -> None:
    """Check that the libraries accept the options of `config` for the model in `directory`.

    `layers_known`: the names in targetModules were already found among the model's layers. Checks that need weights are
    left to Train.

    Raises:
        StageError: a library refuses an option.
    """
    if model_type(directory) in PROVEN and layers_known and not has_options(config):
        return
    try:
        found = run_check(_MODULE, [str(directory)], timeout_seconds=_LIMIT_SECONDS, stdin=to_json(config))
    except NoResultError as error:
        logger.info("      options: the libraries check them when the model is loaded: %s", error)
        return
    if found["unknown"] is not None:
        logger.info("      options: not all could be tried without weights: %s", found["unknown"])
    if found["refused"] is not None:
        raise StageError(Reason.CONFIG_INVALID, str(found["refused"]))


def has_options(config: RunConfig) -> bool:
    """Whether `config` has options that a library may refuse; tests build a trainer with each value of the others."""
    method = config.method
    return (
        bool(config.training.extra)
        or method.unfrozen_parameters is not None
        or config.model.rope_scaling is not None
        or bool(tokens_to_add(config.model))
        or (method.lora is not None and _has_options(method.lora))
    )


def _has_options(lora: Lora) -> bool:
    return bool(lora.extra or lora.modules_to_save or lora.loraplus_lr_ratio) or lora.bias is not LoraBias.NONE

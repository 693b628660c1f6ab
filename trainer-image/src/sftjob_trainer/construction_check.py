"""Whether TRL, PEFT and transformers take the options of a run, known in Prepare before a GPU is held.

The trainer is made as Train makes it, of a model without weights. That is in a process of its own: Prepare does without
PyTorch.
"""

import logging
from pathlib import Path
from typing import Final

from sftjob_contract.codec import to_json
from sftjob_contract.config import RunConfig
from sftjob_contract.method import Lora, LoraBias
from sftjob_contract.reasons import Reason
from sftjob_trainer.added_tokens import added
from sftjob_trainer.child import NoAnswerError, answer_of
from sftjob_trainer.failure import Failure
from sftjob_trainer.packing_check import PROVEN, model_type

logger = logging.getLogger(__name__)

_MODULE: Final = "sftjob_trainer.weightless"
_LIMIT_SECONDS: Final = 300


def check_construction(config: RunConfig, directory: Path, *, layers_known: bool) -> None:
    """See that the libraries take the options of `config` for the model in `directory`.

    `layers_known`: the names in targetModules were found among the model's layers already. What cannot be known
    without weights is left to Train.

    Raises:
        Failure: they refuse one.
    """
    if model_type(directory) in PROVEN and layers_known and not has_options(config):
        return
    try:
        found = answer_of(_MODULE, [str(directory)], seconds=_LIMIT_SECONDS, given=to_json(config))
    except NoAnswerError as error:
        logger.info("      options: whether the libraries take them is found out when the model is loaded: %s", error)
        return
    if found["unknown"] is not None:
        logger.info("      options: not all could be tried without weights: %s", found["unknown"])
    if found["refused"] is not None:
        raise Failure(Reason.CONFIG_INVALID, str(found["refused"]))


def has_options(config: RunConfig) -> bool:
    """Whether `config` has options that a library may refuse; tests make a trainer with each value of the others."""
    method = config.method
    return (
        bool(config.training.extra)
        or method.unfrozen_parameters is not None
        or config.model.rope_scaling is not None
        or bool(added(config.model))
        or (method.lora is not None and _has_options(method.lora))
    )


def _has_options(lora: Lora) -> bool:
    return bool(lora.extra or lora.modules_to_save or lora.loraplus_lr_ratio) or lora.bias is not LoraBias.NONE

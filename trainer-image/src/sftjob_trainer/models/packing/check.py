"""Check in Prepare that a model may be packed: probes a small model of the same code in a separate process.

Prepare itself does not load PyTorch. Run as a program, this module prints the probe's result as JSON.
"""

import json
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.batches import packed_by_best_fit
from sftjob_contract.run.config import Attention, RunConfig
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.image import FLASH_PACKAGES
from sftjob_trainer.process.subprocess_check import NoResultError, limit_memory, print_result, run_check

logger = logging.getLogger(__name__)

PROVEN: Final = frozenset((
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma3_text", "phi",
    "phi3", "gpt2", "gpt_neox", "olmo2", "olmo3", "starcoder2", "stablelm", "smollm3", "cohere", "cohere2",
    "granite", "glm", "glm4", "exaone4",
))  # fmt: skip
"""Model types that keep packed documents apart regardless of their config; tests probe each of them."""
CONVOLUTIONS: Final = "causal_conv1d"
"""Without this package, the short convolutions of hybrids cross document boundaries; transformers warns of it."""
_MODULE: Final = "sftjob_trainer.models.packing.check"
_LIMIT_SECONDS: Final = 300


def packing_error(config: RunConfig, name: str, clause: str) -> StageError:
    """The StageError for packing with a model of this name."""
    return StageError(
        Reason.CONFIG_INVALID,
        f"training.packing: true cannot be combined with {config.model.source} ({name}): {clause}; "
        f"write training.packing: false{', or install it' if CONVOLUTIONS in clause else ''}",
    )


def check_packing(config: RunConfig, directory: Path) -> None:
    """Refuse packing if the code of the model in `directory` does not keep documents apart.

    Train probes the loaded model in cases that cannot be decided here: code in the model's own repository, a config
    without a small equivalent, and attention by a GPU kernel.

    Raises:
        StageError: documents are not kept apart.
    """
    if not packed_by_best_fit(config) or config.model.trust_remote_code:
        return
    name = model_type(directory)
    if name in PROVEN:
        return
    found = _probe(directory, config.model.attention)
    if found is None:
        logger.info("      packing: whether %s keeps packed documents apart is checked when it is loaded", name)
        return
    may_work_on_gpu = find_spec(CONVOLUTIONS) is not None if CONVOLUTIONS in found else _may_have_kernel(config)
    if not may_work_on_gpu:
        raise packing_error(config, name, found)


def _may_have_kernel(config: RunConfig) -> bool:
    """Whether attention may use a kernel that handles document boundaries and does not run on a CPU."""
    if config.model.attention in FLASH_PACKAGES:
        return True
    return config.gpus > 0 and config.model.attention is Attention.AUTO and find_spec("flash_attn") is not None


def model_type(directory: Path) -> str:
    """The model type in config.json in `directory`."""
    try:
        return str(json.loads((directory / "config.json").read_bytes()).get("model_type"))
    except (OSError, ValueError):
        return "unknown"


def _probe(directory: Path, attention: Attention) -> str | None:
    """The probe's finding for a small model of the same code; None if there is none, or the probe is inconclusive."""
    try:
        found = run_check(_MODULE, [str(directory), attention.value], timeout_seconds=_LIMIT_SECONDS)
    except NoResultError as error:
        logger.info("      packing: no small model could be tried: %s", error)
        return None
    return None if found is None else str(found)


def _run_probe(directory: str, attention: str) -> str | None:
    import torch
    from transformers import AutoConfig

    from sftjob_trainer.models.packing.isolation import packing_problem
    from sftjob_trainer.models.small_models import small_model

    on_cpu = attention if attention in (Attention.EAGER, Attention.SDPA) else None
    model = small_model(AutoConfig.from_pretrained(directory), on_cpu)
    problem = None if model is None else packing_problem(model, torch.float32)
    return problem.clause if problem is not None and problem.in_code else None


if __name__ == "__main__":
    limit_memory()
    print_result(_run_probe(*sys.argv[1:]))

"""Whether a model may be packed, known in Prepare: a small model of the same code is tried, in a process of its own.

Prepare itself does without PyTorch. Run as a program, this prints what the probe found, as JSON.
"""

import json
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sftjob_contract.batches import VARLEN, packed_by_best_fit
from sftjob_contract.config import Attention, RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.child import NoAnswerError, answer_of, limit_memory, print_answer
from sftjob_trainer.failure import Failure

logger = logging.getLogger(__name__)

PROVEN: Final = frozenset(
    {
        *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma3_text"),
        *(
            "phi",
            "phi3",
            "gpt2",
            "gpt_neox",
            "olmo2",
            "olmo3",
            "starcoder2",
            "stablelm",
            "smollm3",
            "cohere",
            "cohere2",
        ),
        *("granite", "glm", "glm4", "exaone4"),
    }
)
"""Model types that keep packed documents apart whatever their config says; tests try each of them."""
CONVOLUTIONS: Final = "causal_conv1d"
"""Without this package, the short convolutions of hybrids do not stop between documents, and transformers says so."""
_MODULE: Final = "sftjob_trainer.packing_check"
_LIMIT_SECONDS: Final = 300


def refused(config: RunConfig, name: str, clause: str) -> Failure:
    """The verdict on packing with a model of this name."""
    return Failure(
        Reason.CONFIG_INVALID,
        f"training.packing: true does not go with {config.model.source} ({name}): {clause}; "
        f"write training.packing: false{', or install it' if CONVOLUTIONS in clause else ''}",
    )


def check_packing(config: RunConfig, directory: Path) -> None:
    """Refuse to pack where the code of the model in `directory` does not keep documents apart.

    What cannot be known here is left to Train, which tries the loaded model: code of the repository's own, a config
    that no small model can be made of, and attention by a kernel for GPUs.

    Raises:
        Failure: it does not.
    """
    if not packed_by_best_fit(config) or config.model.trust_remote_code:
        return
    name = model_type(directory)
    if name in PROVEN:
        return
    found = _tried(directory, config.model.attention)
    if found is None:
        logger.info("      packing: whether %s keeps packed documents apart is found out when it is loaded", name)
        return
    may_do_on_a_gpu = find_spec(CONVOLUTIONS) is not None if CONVOLUTIONS in found else _may_have_kernel(config)
    if not may_do_on_a_gpu:
        raise refused(config, name, found)


def _may_have_kernel(config: RunConfig) -> bool:
    """Whether attention may be computed by a kernel that knows where documents begin, which a CPU does not have."""
    if config.model.attention in VARLEN:
        return True
    return config.gpus > 0 and config.model.attention is Attention.AUTO and find_spec("flash_attn") is not None


def model_type(directory: Path) -> str:
    """What config.json in `directory` calls the model."""
    try:
        return str(json.loads((directory / "config.json").read_bytes()).get("model_type"))
    except (OSError, ValueError):
        return "unknown"


def _tried(directory: Path, attention: Attention) -> str | None:
    """What the probe says of a small model of the same code; None: nothing, or it cannot say."""
    try:
        found = answer_of(_MODULE, [str(directory), attention.value], seconds=_LIMIT_SECONDS)
    except NoAnswerError as error:
        logger.info("      packing: no small model could be tried: %s", error)
        return None
    return None if found is None else str(found)


def _try(directory: str, attention: str) -> str | None:
    import torch
    from transformers import AutoConfig

    from sftjob_trainer.packing_isolation import packing_problem
    from sftjob_trainer.small_models import small_model

    on_cpu = attention if attention in (Attention.EAGER, Attention.SDPA) else None
    model = small_model(AutoConfig.from_pretrained(directory), on_cpu)
    problem = None if model is None else packing_problem(model, torch.float32)
    return problem.clause if problem is not None and problem.of_code else None


if __name__ == "__main__":
    limit_memory()
    print_answer(_try(*sys.argv[1:]))

"""What this machine and image have, and what a run therefore uses where the config leaves the choice open.

Deciding is pure: `choose` sees a Machine, which tests make up; only `this_machine` looks at the real one.
"""

import resource
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import psutil

from sftjob_contract.config import Attention, Kernels, ModelDtype, Precision, RunConfig
from sftjob_contract.method import LoraBias
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

FLASH_PACKAGES: Final = {
    Attention.FLASH_ATTENTION_2: "flash_attn",
    Attention.FLASH_ATTENTION_3: "flash_attn_interface",
}
FLASH_CAPABILITIES: Final = {Attention.FLASH_ATTENTION_2: (8, 0), Attention.FLASH_ATTENTION_3: (9, 0)}
"""CUDA compute capability from which each one runs: Ampere, Hopper."""
LIGER_PACKAGE: Final = "liger_kernel"
_RSS_UNIT_BYTES: Final = 1 if sys.platform == "darwin" else 1024
"""Of ru_maxrss, see getrusage(2)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The accelerators and the optional packages. `gpu` None: there is none, and `capability` means nothing."""

    gpu: str | None
    capability: tuple[int, int]
    bf16: bool
    packages: frozenset[str]
    gpus: int = 1


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the run uses.

    `precision` and `dtype`, that of loaded weights, are never auto. `attention` None: what transformers takes by
    itself. `reasons` say, a line each, what was chosen and why.
    """

    precision: Precision
    dtype: ModelDtype
    attention: Attention | None
    liger: bool
    reasons: tuple[str, ...]


def this_machine() -> Machine:
    """The machine that this process runs on. Packages are looked for, not imported: importing some patches others."""
    import torch

    gpu = torch.cuda.is_available()
    return Machine(
        gpu=torch.cuda.get_device_name() if gpu else None,
        capability=torch.cuda.get_device_capability() if gpu else (0, 0),
        bf16=torch.cuda.is_bf16_supported() if gpu else True,
        packages=frozenset(name for name in (*FLASH_PACKAGES.values(), LIGER_PACKAGE) if find_spec(name) is not None),
        gpus=torch.cuda.device_count(),
    )


def process_started() -> float:
    """When this process began, in seconds of time.monotonic."""
    return time.monotonic() - (time.time() - psutil.Process().create_time())


def peak_memory_bytes() -> int:
    """The most that this process has held of its GPU, or without one of the host's memory."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES


def trainable_parameters(model: Any) -> tuple[int, int]:
    """How many numbers of `model` are trained, and how many it has; packed 4-bit weights count as what they stand for.

    As PEFT's `PeftModel.get_nb_trainable_parameters` counts.
    """
    trained = total = 0
    for weights in model.parameters():
        packed = type(weights).__name__ == "Params4bit"
        size = weights.numel() * (2 * weights.element_size() if packed else 1)
        total += size
        trained += size if weights.requires_grad else 0
    return trained, total


def choose(config: RunConfig, machine: Machine) -> Choices:
    """What `config` gets on `machine`.

    Raises:
        Failure: it asks for something that the machine or the image does not have.
    """
    if config.gpus and machine.gpu is None:
        raise Failure(
            Reason.GPU_UNAVAILABLE,
            f"resources.gpus: {config.gpus} was requested, but no CUDA device is visible in the container; "
            "write 0 to train on the CPU, or check the node's GPU driver and device plugin",
        )
    if config.gpus > machine.gpus:
        raise Failure(
            Reason.GPU_UNAVAILABLE,
            f"resources.gpus: {config.gpus} was requested, but the container sees only {machine.gpus} CUDA devices; "
            "check that the node's device plugin gives each Pod as many as it requests",
        )
    precision = _precision(config, machine)
    dtype = _dtype(config, precision)
    attention, about_attention = _attention(config, machine, dtype, precision)
    liger, about_kernels = _liger(config, machine)
    return Choices(
        precision=precision,
        dtype=dtype,
        attention=attention,
        liger=liger,
        reasons=(
            f"precision {precision}: {_about_precision(config, machine)}",
            f"weights loaded as {dtype}: {_about_dtype(config)}",
            f"attention {attention or 'as the model has it by default'}: {about_attention}",
            f"kernels {Kernels.LIGER if liger else Kernels.NONE}: {about_kernels}",
        ),
    )


def autocast_precision(config: RunConfig, choices: Choices) -> Precision:
    """The precision of TRL's autocast.

    Modules and biases that LoRA trains are fp32. Where the weights beside them have 16 bits, products of both need
    autocast, in the dtype in which those weights are multiplied anyway.
    """
    lora = config.method.lora
    if lora is None or choices.precision is not Precision.FP32:
        return choices.precision
    if not lora.modules_to_save and lora.bias is LoraBias.NONE:
        return Precision.FP32
    halves = {ModelDtype.BFLOAT16: Precision.BF16, ModelDtype.FLOAT16: Precision.FP16}
    return halves.get(choices.dtype, Precision.FP32)


def _precision(config: RunConfig, machine: Machine) -> Precision:
    asked = config.training.precision
    if asked is Precision.AUTO:
        return Precision.BF16 if config.gpus and machine.bf16 else Precision.FP32
    if asked is Precision.FP16 and not config.gpus:
        raise _refused("training.precision: fp16 needs a GPU; write bf16, fp32 or auto")
    if asked is Precision.BF16 and config.gpus and not machine.bf16:
        raise _refused(f"training.precision: bf16 is not supported by {machine.gpu}; write fp16, fp32 or auto")
    return asked


def _about_precision(config: RunConfig, machine: Machine) -> str:
    if config.training.precision is not Precision.AUTO:
        return "asked for"
    if not config.gpus:
        return "a CPU trains"
    return f"{machine.gpu} has bf16" if machine.bf16 else f"{machine.gpu} has no bf16"


def _about_dtype(config: RunConfig) -> str:
    if config.model.dtype is not ModelDtype.AUTO:
        return "asked for"
    if config.method.lora is not None:
        return "they are not trained, and need no more than the step"
    return "they are trained, and updates of 16 bits get lost in rounding"


def _dtype(config: RunConfig, precision: Precision) -> ModelDtype:
    """Trained weights are fp32 unless asked otherwise, since updates of 16-bit weights get lost in rounding.

    Frozen ones need only the precision that they are computed in.
    """
    asked = config.model.dtype
    frozen = config.method.lora is not None
    if asked is ModelDtype.AUTO:
        halves = {Precision.BF16: ModelDtype.BFLOAT16, Precision.FP16: ModelDtype.FLOAT16}
        return halves.get(precision, ModelDtype.FLOAT32) if frozen else ModelDtype.FLOAT32
    if asked is ModelDtype.FLOAT16 and not config.gpus:
        raise _refused("model.dtype: float16 needs a GPU; write bfloat16, float32 or auto")
    if asked is ModelDtype.FLOAT16 and not frozen:
        raise _refused(
            "model.dtype: float16 is too coarse for weights that are trained; write float32 or bfloat16, "
            "or adapt the model with method.lora"
        )
    if asked is ModelDtype.BFLOAT16 and not frozen and precision is Precision.FP16:
        raise _refused(
            "model.dtype: bfloat16 does not go with training.precision: fp16 where every weight is trained; "
            "write float32, or training.precision: bf16"
        )
    return asked


def _attention(
    config: RunConfig, machine: Machine, dtype: ModelDtype, precision: Precision
) -> tuple[Attention | None, str]:
    asked = config.model.attention
    half = precision is not Precision.FP32 or dtype is not ModelDtype.FLOAT32
    if asked is Attention.AUTO:
        flash = Attention.FLASH_ATTENTION_2
        missing = _missing_for(flash, config, machine, half=half)
        return (flash, "image and GPU have it") if missing is None else (None, f"{flash} needs {missing}")
    if asked is Attention.FLEX_ATTENTION and not config.gpus:
        raise _refused(f"model.attention: {asked} can not train on the CPU; write sdpa, eager or auto")
    if asked in FLASH_PACKAGES and (missing := _missing_for(asked, config, machine, half=half)):
        raise _refused(f"model.attention: {asked} needs {missing}; write sdpa, eager or auto")
    return asked, "asked for"


def _missing_for(flash: Attention, config: RunConfig, machine: Machine, *, half: bool) -> str | None:
    """What `flash` needs and does not have; None when nothing is missing."""
    if not config.gpus:
        return "a GPU"
    if FLASH_PACKAGES[flash] not in machine.packages:
        return f"the package {FLASH_PACKAGES[flash]} in the image"
    if machine.capability < FLASH_CAPABILITIES[flash]:
        major, minor = FLASH_CAPABILITIES[flash]
        return f"a GPU of compute capability {major}.{minor} or more, which {machine.gpu} is not"
    return None if half else "training.precision: bf16 or fp16"


def _liger(config: RunConfig, machine: Machine) -> tuple[bool, str]:
    """Whether Liger's kernels replace the model's own norms, rotary embeddings and MLPs.

    TRL does not use Liger's cross entropy: its own never holds all logits either.
    """
    asked = config.training.kernels
    missing = None
    if not config.gpus:
        missing = "a GPU"
    elif LIGER_PACKAGE not in machine.packages:
        missing = f"the package {LIGER_PACKAGE} in the image"
    if asked is Kernels.NONE:
        return False, "asked for"
    if asked is Kernels.LIGER and missing:
        raise _refused(f"training.kernels: liger needs {missing}; write none or auto")
    if missing:
        return False, f"liger needs {missing}"
    return True, "asked for" if asked is Kernels.LIGER else "image and GPU have it"


def _refused(sentence: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, sentence)

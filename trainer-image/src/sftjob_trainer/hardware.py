"""What this machine and image have, and what a run therefore uses where the config leaves the choice open.

Deciding is pure: `choose` sees a Machine, which tests make up; only `this_machine` looks at the real one.
"""

import re
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import psutil

from sftjob_contract.config import Attention, Kernels, ModelDtype, Precision, RunConfig
from sftjob_contract.method import LoraBias
from sftjob_contract.reasons import Reason
from sftjob_trainer.added_tokens import added
from sftjob_trainer.failure import Failure
from sftjob_trainer.image import FLASH_PACKAGES, LIGER_PACKAGE, has_compiler, image_packages

FLASH_CAPABILITIES: Final = {
    Attention.FLASH_ATTENTION_2: ((8, 0), None),
    Attention.FLASH_ATTENTION_3: ((8, 0), (10, 0)),
    Attention.FLASH_ATTENTION_4: ((9, 0), (12, 0)),
}
"""CUDA compute capability from which each one runs, and the first beyond which it does not: from Ampere; from Ampere to
Hopper; Hopper and Blackwell of data centres. https://github.com/Dao-AILab/flash-attention, transformers'
`FLASH_ATTENTION_COMPATIBILITY_MATRIX`."""
FIRST_WITH_BF16: Final = (8, 0)
"""Compute capability of Ampere. PyTorch counts emulation as support (`torch.cuda.is_bf16_supported`)."""
_DRIVERS: Final = {"13": "580", "12": "525"}
"""The oldest driver for each CUDA (https://docs.nvidia.com/deploy/cuda-compatibility)."""
_ARCHITECTURE: Final = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<feature>[af]?)")
_RSS_UNIT_BYTES: Final = 1 if sys.platform == "darwin" else 1024
"""Of ru_maxrss, see getrusage(2)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The accelerators and the optional packages. `gpu` None: there is none, and `capability` means nothing.

    `architectures` are those that this PyTorch has code for (`torch.cuda.get_arch_list`); empty: not known.
    `cuda` is the version that it is built for, None without CUDA. `compiler`: kernels can be compiled for where the run
    trains.
    """

    gpu: str | None
    capability: tuple[int, int]
    packages: frozenset[str]
    gpus: int = 1
    architectures: tuple[str, ...] = ()
    cuda: str | None = None
    compiler: bool = True

    @property
    def bf16(self) -> bool:
        """Whether it computes in bf16, and does not only emulate it."""
        return self.gpu is None or self.capability >= FIRST_WITH_BF16


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
    """The machine that this process runs on."""
    import torch

    gpu = torch.cuda.is_available()
    return Machine(
        gpu=torch.cuda.get_device_name() if gpu else None,
        capability=torch.cuda.get_device_capability() if gpu else (0, 0),
        packages=image_packages(),
        gpus=torch.cuda.device_count(),
        architectures=tuple(torch.cuda.get_arch_list()),
        cuda=torch.version.cuda,
        compiler=has_compiler("CC" if gpu else "CXX"),
    )


def best_machine(config: RunConfig) -> Machine:
    """A machine with this image and GPUs that suit `config`: what it lacks, every other that runs the image lacks."""
    capability, _ = FLASH_CAPABILITIES.get(config.model.attention, (FIRST_WITH_BF16, None))
    return Machine(
        gpu="any GPU" if config.gpus else None,
        capability=capability,
        packages=image_packages(),
        gpus=config.gpus,
        compiler=has_compiler("CC" if config.gpus else "CXX"),
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
    _check_gpus(config, machine)
    precision = _precision(config, machine)
    dtype = _dtype(config, precision)
    attention, about_attention = _attention(config, machine, dtype, precision)
    liger, about_kernels = _liger(config, machine)
    if config.training.compile and not machine.compiler:
        raise _refused(
            f"training.compile: true needs a compiler of {'C' if config.gpus else 'C++'} and the headers of Python in "
            "the image; write false, or name an image that has them in spec.image"
        )
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


def _check_gpus(config: RunConfig, machine: Machine) -> None:
    """See that there are as many GPUs as requested, and that this PyTorch has code for them."""
    if not config.gpus:
        return
    if machine.gpu is None:
        raise Failure(
            Reason.GPU_UNAVAILABLE,
            f"resources.gpus: {config.gpus} was requested, but no CUDA device is visible in the container; "
            f"write 0 to train on the CPU, or check the node's GPU driver and device plugin{_about_driver(machine)}",
        )
    if config.gpus > machine.gpus:
        raise Failure(
            Reason.GPU_UNAVAILABLE,
            f"resources.gpus: {config.gpus} was requested, but the container sees only {machine.gpus} CUDA devices; "
            "check that the node's device plugin gives each Pod as many as it requests",
        )
    if not has_code_for(machine.capability, machine.architectures):
        major, minor = machine.capability
        built = ", ".join(machine.architectures)
        raise Failure(
            Reason.GPU_UNAVAILABLE,
            f"resources.gpus: the node has {machine.gpu} (sm_{major}{minor}), but the PyTorch of this image is built "
            f"for {built}{_about_driver(machine)}; name GPUs that it is built for in scheduling.gpuProducts, or build "
            "the image with a PyTorch for this GPU (docs/images.md: TORCH_INDEX_URL)",
        )


def _about_driver(machine: Machine) -> str:
    oldest = _DRIVERS.get((machine.cuda or "").partition(".")[0])
    return f" (its PyTorch is built for CUDA {machine.cuda}, which needs driver R{oldest} or newer)" if oldest else ""


def has_code_for(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether a PyTorch built for these architectures runs on a GPU of this capability.

    Machine code (sm_86) runs on its own major version from its minor version on; that of a feature set (sm_90a) only on
    its own. PTX (compute_90) is translated for anything newer.
    https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc, GPU compilation. Other vendors' names are not judged.
    """
    found = [match for name in architectures if (match := _ARCHITECTURE.fullmatch(name))]
    if not found:
        return True
    for match in found:
        built = (int(match["major"]), int(match["minor"]))
        if match["kind"] == "compute" and not match["feature"] and capability >= built:
            return True
        if capability == built or (not match["feature"] and capability[0] == built[0] and capability >= built):
            return True
    return False


def autocast_precision(config: RunConfig, choices: Choices) -> Precision:
    """The precision of TRL's autocast.

    Modules (of added tokens too) and biases that LoRA trains are fp32. Where the weights beside them have 16 bits,
    products of both need autocast, in the dtype in which those weights are multiplied anyway.
    """
    lora = config.method.lora
    if lora is None or choices.precision is not Precision.FP32:
        return choices.precision
    if not (lora.modules_to_save or added(config.model)) and lora.bias is LoraBias.NONE:
        return Precision.FP32
    halves = {ModelDtype.BFLOAT16: Precision.BF16, ModelDtype.FLOAT16: Precision.FP16}
    return halves.get(choices.dtype, Precision.FP32)


def _precision(config: RunConfig, machine: Machine) -> Precision:
    asked = config.training.precision
    if asked is Precision.AUTO:
        if not config.gpus:
            return Precision.FP32
        return Precision.BF16 if machine.bf16 else Precision.FP16
    if asked is Precision.FP16 and not config.gpus:
        raise _refused("training.precision: fp16 needs a GPU; write bf16, fp32 or auto")
    if asked is Precision.BF16 and config.gpus and not machine.bf16:
        raise _refused(
            f"training.precision: bf16 needs a GPU of compute capability 8.0 or more, which {machine.gpu} is not; "
            "write fp16, fp32 or auto"
        )
    return asked


def _about_precision(config: RunConfig, machine: Machine) -> str:
    if config.training.precision is not Precision.AUTO:
        return "asked for"
    if not config.gpus:
        return "a CPU trains"
    return f"{machine.gpu} has bf16" if machine.bf16 else f"{machine.gpu} has no bf16, so the loss is scaled"


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
    first, beyond = FLASH_CAPABILITIES[flash]
    if machine.capability < first or (beyond is not None and machine.capability >= beyond):
        below = "" if beyond is None else f" and below {beyond[0]}.{beyond[1]}"
        return f"a GPU of compute capability {first[0]}.{first[1]} or more{below}, which {machine.gpu} is not"
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
    elif not machine.compiler:
        missing = "a compiler of C and the headers of Python in the image"
    if asked is Kernels.NONE:
        return False, "asked for"
    if asked is Kernels.LIGER and missing:
        raise _refused(f"training.kernels: liger needs {missing}; write none or auto")
    if missing:
        return False, f"liger needs {missing}"
    return True, "asked for" if asked is Kernels.LIGER else "image and GPU have it"


def _refused(sentence: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, sentence)

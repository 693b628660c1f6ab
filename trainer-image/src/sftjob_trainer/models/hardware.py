"""What this machine and image provide, and what a run uses where the config leaves the choice open.

Deciding is pure: `choose` takes a Machine, which tests construct; only `this_machine` inspects the real one.
"""

import re
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import psutil

from sftjob_contract.reasons import Reason
from sftjob_contract.run.batches import packed_by_best_fit
from sftjob_contract.run.config import Attention, Kernels, ModelDtype, Precision, RunConfig
from sftjob_contract.run.method import LoraBias
from sftjob_trainer.models.added_tokens import tokens_to_add
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.image import FLASH_PACKAGES, LIGER_PACKAGE, has_compiler, image_packages

FLASH_CAPABILITIES: Final = {
    Attention.FLASH_ATTENTION_2: ((8, 0), None),
    Attention.FLASH_ATTENTION_3: ((8, 0), (10, 0)),
    Attention.FLASH_ATTENTION_4: ((9, 0), (12, 0)),
}
"""CUDA compute capability from which each one runs, and the first one beyond its range: from Ampere; from Ampere to
Hopper; data center Hopper and Blackwell. https://github.com/Dao-AILab/flash-attention, transformers'
`FLASH_ATTENTION_COMPATIBILITY_MATRIX`."""
VARLEN_ATTENTION: Final = "varlen"
"""Attention by document, see models/packing/varlen_attention.py: a name of this trainer's among transformers' own."""
FIRST_WITH_BF16: Final = (8, 0)
"""Compute capability of Ampere. PyTorch counts emulation as support (`torch.cuda.is_bf16_supported`)."""
_DRIVERS: Final = {"13": "580", "12": "525"}
"""The oldest driver for each CUDA version (https://docs.nvidia.com/deploy/cuda-compatibility)."""
_ARCHITECTURE: Final = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<feature>[af]?)")
_RSS_UNIT_BYTES: Final = 1 if sys.platform == "darwin" else 1024
"""Unit of ru_maxrss, see getrusage(2)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The accelerators and the optional packages. `gpu` is None without a GPU; `capability` is then meaningless.

    `architectures` are those that this PyTorch has code for (`torch.cuda.get_arch_list`); empty if unknown. `cuda` is
    the version that it is built for, None without CUDA. `compiler`: kernels can be compiled on the device that the run
    trains on.
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
        """Whether the GPU computes in bf16 natively rather than by emulation."""
        return self.gpu is None or self.capability >= FIRST_WITH_BF16


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The settings that the run uses.

    `precision` and `dtype` (of loaded weights) are never auto. `attention` is transformers' name, VARLEN_ATTENTION for
    models that take it, or None for transformers' default. `reasons` are log lines, one per choice and its reason.
    """

    precision: Precision
    dtype: ModelDtype
    attention: str | None
    liger: bool
    reasons: tuple[str, ...]
    fallback_attention: Attention | None = None
    """What models that do not take VARLEN_ATTENTION use; None for transformers' default."""

    @property
    def loaded_attention(self) -> str | None:
        """The attention to load a model with. VARLEN_ATTENTION is set on a loaded model, which it is tried on."""
        return self.fallback_attention if self.attention == VARLEN_ATTENTION else self.attention


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
    """A machine with this image and GPUs that suit `config`: what it lacks, every machine with this image lacks."""
    capability, _ = FLASH_CAPABILITIES.get(config.model.attention, (FIRST_WITH_BF16, None))
    return Machine(
        gpu="any GPU" if config.gpus else None,
        capability=capability,
        packages=image_packages(),
        gpus=config.gpus,
        compiler=has_compiler("CC" if config.gpus else "CXX"),
    )


def process_started() -> float:
    """When this process started, in seconds of time.monotonic."""
    return time.monotonic() - (time.time() - psutil.Process().create_time())


def peak_memory_bytes() -> int:
    """Peak memory of this process: of its GPU, or without one of the host."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES


def trainable_parameters(model: Any) -> tuple[int, int]:
    """Number of trained and of all parameters of `model`; packed 4-bit weights count unpacked.

    Counts as PEFT's `PeftModel.get_nb_trainable_parameters` does.
    """
    trained = total = 0
    for weights in model.parameters():
        packed = type(weights).__name__ == "Params4bit"
        size = weights.numel() * (2 * weights.element_size() if packed else 1)
        total += size
        trained += size if weights.requires_grad else 0
    return trained, total


def choose(config: RunConfig, machine: Machine) -> Choices:
    """Choose the settings for `config` on `machine`.

    Raises:
        StageError: the config requires something that the machine or the image lacks.
    """
    _check_gpus(config, machine)
    precision = _precision(config, machine)
    dtype = _dtype(config, precision)
    is_half = precision is not Precision.FP32 or dtype is not ModelDtype.FLOAT32
    lacks_flash = _missing_for(Attention.FLASH_ATTENTION_2, config, machine, is_half=is_half)
    attention, attention_reason = _attention(config, machine, lacks_flash, is_half=is_half)
    liger, kernels_reason = _liger(config, machine)
    if config.training.compile and not machine.compiler:
        raise _config_error(
            f"training.compile: true needs a compiler of {'C' if config.gpus else 'C++'} and the headers of Python in "
            "the image; write false, or name an image that has them in spec.image"
        )
    return Choices(
        precision=precision,
        dtype=dtype,
        attention=attention,
        liger=liger,
        fallback_attention=None if lacks_flash else Attention.FLASH_ATTENTION_2,
        reasons=(
            f"precision {precision}: {_precision_reason(config, machine)}",
            f"weights loaded as {dtype}: {_dtype_reason(config)}",
            f"attention {attention or 'as the model has it by default'}: {attention_reason}",
            f"kernels {Kernels.LIGER if liger else Kernels.NONE}: {kernels_reason}",
        ),
    )


def _check_gpus(config: RunConfig, machine: Machine) -> None:
    """Check that there are as many GPUs as requested, and that this PyTorch has code for them."""
    if not config.gpus:
        return
    if machine.gpu is None:
        raise StageError(
            Reason.GPU_UNAVAILABLE,
            f"resources.gpus: {config.gpus} was requested, but no CUDA device is visible in the container; "
            f"write 0 to train on the CPU, or check the node's GPU driver and device plugin{_driver_hint(machine)}",
        )
    if config.gpus > machine.gpus:
        raise StageError(
            Reason.GPU_UNAVAILABLE,
            f"resources.gpus: {config.gpus} was requested, but the container sees only {machine.gpus} CUDA devices; "
            "check that the node's device plugin gives each Pod as many as it requests",
        )
    if not has_code_for(machine.capability, machine.architectures):
        major, minor = machine.capability
        built = ", ".join(machine.architectures)
        raise StageError(
            Reason.GPU_UNAVAILABLE,
            f"resources.gpus: the node has {machine.gpu} (sm_{major}{minor}), but the PyTorch of this image is built "
            f"for {built}{_driver_hint(machine)}; name GPUs that it is built for in scheduling.gpuProducts, or build "
            "the image with a PyTorch for this GPU (docs/images.md: TORCH_INDEX_URL)",
        )


def _driver_hint(machine: Machine) -> str:
    oldest = _DRIVERS.get((machine.cuda or "").partition(".")[0])
    return f" (its PyTorch is built for CUDA {machine.cuda}, which needs driver R{oldest} or newer)" if oldest else ""


def has_code_for(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether a PyTorch built for these architectures runs on a GPU of this capability.

    Machine code (sm_86) runs on its own major version, from its minor version on. That of a feature set (sm_90a) runs
    only on its own version. PTX (compute_90) is translated for anything newer.
    https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc, GPU compilation. Names from other vendors are accepted
    unchecked.
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

    Modules (including those of added tokens) and biases that LoRA trains are fp32. If the weights next to them have 16
    bits, products of both need autocast, in the dtype in which those weights are multiplied anyway.
    """
    lora = config.method.lora
    if lora is None or choices.precision is not Precision.FP32:
        return choices.precision
    if not (lora.modules_to_save or tokens_to_add(config.model)) and lora.bias is LoraBias.NONE:
        return Precision.FP32
    half_types = {ModelDtype.BFLOAT16: Precision.BF16, ModelDtype.FLOAT16: Precision.FP16}
    return half_types.get(choices.dtype, Precision.FP32)


def _precision(config: RunConfig, machine: Machine) -> Precision:
    requested = config.training.precision
    if requested is Precision.AUTO:
        if not config.gpus:
            return Precision.FP32
        return Precision.BF16 if machine.bf16 else Precision.FP16
    if requested is Precision.FP16 and not config.gpus:
        raise _config_error("training.precision: fp16 needs a GPU; write bf16, fp32 or auto")
    if requested is Precision.BF16 and config.gpus and not machine.bf16:
        raise _config_error(
            f"training.precision: bf16 needs a GPU of compute capability 8.0 or more, which {machine.gpu} is not; "
            "write fp16, fp32 or auto"
        )
    return requested


def _precision_reason(config: RunConfig, machine: Machine) -> str:
    if config.training.precision is not Precision.AUTO:
        return "as configured"
    if not config.gpus:
        return "training runs on the CPU"
    return f"{machine.gpu} has bf16" if machine.bf16 else f"{machine.gpu} has no bf16, so the loss is scaled"


def _dtype_reason(config: RunConfig) -> str:
    if config.model.dtype is not ModelDtype.AUTO:
        return "as configured"
    if config.method.lora is not None:
        return "they are not trained, and need no more than the step"
    return "they are trained, and 16-bit updates are lost in rounding"


def _dtype(config: RunConfig, precision: Precision) -> ModelDtype:
    """The dtype of loaded weights. Trained ones default to fp32: 16-bit weights lose small updates in rounding.

    Frozen weights only need the compute precision.
    """
    requested = config.model.dtype
    frozen = config.method.lora is not None
    if requested is ModelDtype.AUTO:
        half_types = {Precision.BF16: ModelDtype.BFLOAT16, Precision.FP16: ModelDtype.FLOAT16}
        return half_types.get(precision, ModelDtype.FLOAT32) if frozen else ModelDtype.FLOAT32
    if requested is ModelDtype.FLOAT16 and not config.gpus:
        raise _config_error("model.dtype: float16 needs a GPU; write bfloat16, float32 or auto")
    if requested is ModelDtype.FLOAT16 and not frozen:
        raise _config_error(
            "model.dtype: float16 is too coarse for weights that are trained; write float32 or bfloat16, "
            "or adapt the model with method.lora"
        )
    if requested is ModelDtype.BFLOAT16 and not frozen and precision is Precision.FP16:
        raise _config_error(
            "model.dtype: bfloat16 cannot be combined with training.precision: fp16 where every weight is trained; "
            "write float32, or training.precision: bf16"
        )
    return requested


def _attention(
    config: RunConfig, machine: Machine, lacks_flash: str | None, *, is_half: bool
) -> tuple[str | None, str]:
    """The attention and the reason; `lacks_flash` is what FlashAttention 2 requires and lacks, if anything."""
    requested = config.model.attention
    if requested is Attention.AUTO:
        if _takes_varlen(config, machine, is_half=is_half):
            return VARLEN_ATTENTION, "each document of a packed row by itself"
        if lacks_flash:
            return None, f"{Attention.FLASH_ATTENTION_2} needs {lacks_flash}"
        return Attention.FLASH_ATTENTION_2, "image and GPU have it"
    if requested is Attention.FLEX_ATTENTION and not config.gpus:
        raise _config_error(f"model.attention: {requested} cannot train on the CPU; write sdpa, eager or auto")
    if requested in FLASH_PACKAGES and (missing := _missing_for(requested, config, machine, is_half=is_half)):
        raise _config_error(f"model.attention: {requested} needs {missing}; write sdpa, eager or auto")
    return requested, "as configured"


def _takes_varlen(config: RunConfig, machine: Machine, *, is_half: bool) -> bool:
    """Whether rows are packed and VARLEN_ATTENTION is fast: on a CPU it would be compiled again for every row."""
    if not packed_by_best_fit(config):
        return False
    return machine.bf16 and is_half if config.gpus else not config.training.compile


def _missing_for(flash: Attention, config: RunConfig, machine: Machine, *, is_half: bool) -> str | None:
    """What `flash` requires and lacks; None if it lacks nothing."""
    if not config.gpus:
        return "a GPU"
    if FLASH_PACKAGES[flash] not in machine.packages:
        return f"the package {FLASH_PACKAGES[flash]} in the image"
    first, end = FLASH_CAPABILITIES[flash]
    if machine.capability < first or (end is not None and machine.capability >= end):
        upper_bound = "" if end is None else f" and below {end[0]}.{end[1]}"
        return f"a GPU of compute capability {first[0]}.{first[1]} or more{upper_bound}, which {machine.gpu} is not"
    return None if is_half else "training.precision: bf16 or fp16"


def _liger(config: RunConfig, machine: Machine) -> tuple[bool, str]:
    """Whether Liger's kernels replace the model's own norms, rotary embeddings and MLPs.

    TRL does not use Liger's cross entropy, because its own never holds all logits either.
    """
    requested = config.training.kernels
    missing = None
    if not config.gpus:
        missing = "a GPU"
    elif LIGER_PACKAGE not in machine.packages:
        missing = f"the package {LIGER_PACKAGE} in the image"
    elif not machine.compiler:
        missing = "a compiler of C and the headers of Python in the image"
    if requested is Kernels.NONE:
        return False, "as configured"
    if requested is Kernels.LIGER and missing:
        raise _config_error(f"training.kernels: liger needs {missing}; write none or auto")
    if missing:
        return False, f"liger needs {missing}"
    return True, "as configured" if requested is Kernels.LIGER else "image and GPU have it"


def _config_error(message: str) -> StageError:
    return StageError(Reason.CONFIG_INVALID, message)

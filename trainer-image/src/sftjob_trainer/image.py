"""What the image has. Prepare runs in the image of Train, so that what Train needs and lacks is known there."""

import os
import re
import shutil
import sysconfig
from collections.abc import Collection, Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sftjob_contract.batches import packed_by_best_fit
from sftjob_contract.config import Attention, Metric, RunConfig
from sftjob_contract.optimization import BITSANDBYTES
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

FLASH_PACKAGES: Final = {
    Attention.FLASH_ATTENTION_2: "flash-attn",
    Attention.FLASH_ATTENTION_3: "flash-attn-3",
    Attention.FLASH_ATTENTION_4: "flash-attn-4",
}
"""Distributions, as transformers tells them apart: two of them have modules of the same name."""
LIGER_PACKAGE: Final = "liger_kernel"
TRACKERS: Final = ("mlflow", "wandb")
"""Packages that the build of the image adds when its argument TRACKERS names them."""
_HYBRID_PACKAGES: Final = ("causal_conv1d", "fla", "mamba_ssm")
"""Kernels of recurrent and convolutional layers."""
_KERNEL: Final = re.compile(r'^@use_kernel_func_from_hub_with_fallback\("(\w+)", "(\w+)"', re.MULTILINE)
"""How the source of a model in transformers names a kernel and the package that has it. Without the package PyTorch
computes the same, but raises ValueError where packed sequences are to be kept apart."""
_OF_GENERATION: Final = re.compile("update|recurrent")
"""In names of kernels that take one token at a time."""
_COMPILERS: Final = {"CC": ("gcc", "clang"), "CXX": ("g++", "clang++")}
"""Programs that Triton and PyTorch's inductor look for where the variable does not name one."""


def has_package(name: str) -> bool:
    """Whether the image has the package with the module `name`, which is not imported.

    A directory of that name without code, such as `wandb` with a run's files, is no package.
    """
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def needed_packages(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Options of `config` that need a package which an image can lack, and the package."""
    training, tracking = config.training, config.tracking
    for needed, option, package in (
        (Metric.BLEU in config.evaluation.metrics, "evaluation.metrics: bleu", "sacrebleu"),
        (tracking.tensorboard, "tracking.tensorboard: true", "tensorboard"),
        (tracking.wandb is not None, "tracking.wandb", "wandb"),
        (tracking.mlflow is not None, "tracking.mlflow", "mlflow"),
        (config.method.quantization is not None, "method.quantization", BITSANDBYTES),
        (True, f"training.optimizer: {training.optimizer}", training.optimizer.package),
    ):
        if needed and package is not None:
            yield option, package


def package_problems(config: RunConfig) -> Iterator[str]:
    """Options whose package this image lacks, one sentence each."""
    for option, package in needed_packages(config):
        if not has_package(package):
            way = f"build it with TRACKERS={package} (docs/images.md)" if package in TRACKERS else "install it there"
            yield f"{option} needs the package {package} in the trainer's image: {way}, or remove {option}"


def image_packages() -> frozenset[str]:
    """The optional packages of this image. They are looked for, not imported: importing some patches others."""
    flash = {name for name in FLASH_PACKAGES.values() if next(iter(distributions(name=name)), None) is not None}
    return frozenset(flash | {name for name in (LIGER_PACKAGE, *_HYBRID_PACKAGES) if has_package(name)})


def has_compiler(variable: str = "CC") -> bool:
    """Whether kernels can be compiled: with a compiler of C (CC) or C++ (CXX), and the headers of Python."""
    programs = (os.environ[variable],) if os.environ.get(variable) else _COMPILERS[variable]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return headers.is_file() and any(shutil.which(program) for program in programs)


def check_packed_layers(config: RunConfig, model_type: str, packages: Collection[str]) -> None:
    """See that packed rows of a model with recurrent or convolutional layers can be kept apart.

    Raises:
        Failure: the kernels for that are not in the image.
    """
    if not packed_by_best_fit(config):
        return
    if missing := sorted(set(_kernel_packages(model_type)) - set(packages)):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"training.packing: true needs the package {' and '.join(missing)} in the image for a model of type "
            f"{model_type}, whose layers would mix the rows of a sequence; write packing: false",
        )


def _kernel_packages(model_type: str) -> Iterator[str]:
    """Packages with kernels that a model of transformers trains with, read from its source without importing it."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None or not model_type.replace("-", "_").isidentifier():
        return
    name = model_type.replace("-", "_")
    source = Path(spec.origin).parent / "models" / name / f"modeling_{name}.py"
    if source.is_file():
        for kernel, package in _KERNEL.findall(source.read_text(encoding="utf-8")):
            if not _OF_GENERATION.search(kernel):
                yield package

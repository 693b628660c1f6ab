"""Optional contents of the image. Prepare runs in the image of Train, so it can detect what Train lacks."""

import os
import re
import shutil
import sysconfig
from collections.abc import Collection, Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.batches import packed_by_best_fit
from sftjob_contract.run.config import Attention, Metric, RunConfig
from sftjob_contract.run.optimization import BITSANDBYTES
from sftjob_trainer.process.errors import StageError

FLASH_PACKAGES: Final = {
    Attention.FLASH_ATTENTION_2: "flash-attn",
    Attention.FLASH_ATTENTION_3: "flash-attn-3",
    Attention.FLASH_ATTENTION_4: "flash-attn-4",
}
"""Distribution names, by which transformers distinguishes them: two of them have modules of the same name."""
LIGER_PACKAGE: Final = "liger_kernel"
TRACKERS: Final = ("mlflow", "wandb")
"""Packages that the image build installs when its argument TRACKERS lists them."""
_HYBRID_PACKAGES: Final = ("causal_conv1d", "fla", "mamba_ssm")
"""Kernels of recurrent and convolutional layers."""
_KERNEL: Final = re.compile(r'^@use_kernel_func_from_hub_with_fallback\("(\w+)", "(\w+)"', re.MULTILINE)
"""How a model's source in transformers names a kernel and its package. Without the package, PyTorch computes the same,
but raises ValueError if packed sequences have to be kept apart."""
_OF_GENERATION: Final = re.compile("update|recurrent")
"""Part of the names of kernels that process one token at a time."""
_COMPILERS: Final = {"CC": ("gcc", "clang"), "CXX": ("g++", "clang++")}
"""Compilers that Triton and PyTorch's inductor look for if the variable does not name one."""


def has_package(name: str) -> bool:
    """Whether the image has the package with the module `name`; the module is not imported.

    A directory of that name without code, such as `wandb` with a run's files, is not a package.
    """
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def needed_packages(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Options of `config` that need an optional package, with the package."""
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
            advice = f"build it with TRACKERS={package} (docs/images.md)" if package in TRACKERS else "install it there"
            yield f"{option} needs the package {package} in the trainer's image: {advice}, or remove {option}"


def image_packages() -> frozenset[str]:
    """The optional packages of this image, found without importing them: importing some patches others."""
    flash = {name for name in FLASH_PACKAGES.values() if next(iter(distributions(name=name)), None) is not None}
    return frozenset(flash | {name for name in (LIGER_PACKAGE, *_HYBRID_PACKAGES) if has_package(name)})


def has_compiler(variable: str = "CC") -> bool:
    """Whether kernels can be compiled: with a C (CC) or C++ (CXX) compiler and the Python headers."""
    programs = (os.environ[variable],) if os.environ.get(variable) else _COMPILERS[variable]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return headers.is_file() and any(shutil.which(program) for program in programs)


def check_packed_layers(config: RunConfig, model_type: str, packages: Collection[str]) -> None:
    """Check that packed rows of a model with recurrent or convolutional layers can be kept apart.

    Raises:
        StageError: the image lacks the kernels for that.
    """
    if not packed_by_best_fit(config):
        return
    if missing := sorted(set(_kernel_packages(model_type)) - set(packages)):
        raise StageError(
            Reason.CONFIG_INVALID,
            f"training.packing: true needs the package {' and '.join(missing)} in the image for a model of type "
            f"{model_type}, whose layers would mix the rows of a sequence; write packing: false",
        )


def _kernel_packages(model_type: str) -> Iterator[str]:
    """Kernel packages that a transformers model uses in training, parsed from its source without importing it."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None or not model_type.replace("-", "_").isidentifier():
        return
    name = model_type.replace("-", "_")
    source = Path(spec.origin).parent / "models" / name / f"modeling_{name}.py"
    if source.is_file():
        for kernel, package in _KERNEL.findall(source.read_text(encoding="utf-8")):
            if not _OF_GENERATION.search(kernel):
                yield package

"""Optimizers and learning rate schedules: part of the run config."""

from enum import StrEnum
from typing import Final


class Scheduler(StrEnum):
    """Learning rate schedule, under transformers' names (`lr_scheduler_type`)."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    INVERSE_SQRT = "inverse_sqrt"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    COSINE_WARMUP_WITH_MIN_LR = "cosine_warmup_with_min_lr"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"


class Optimizer(StrEnum):
    """Optimizer, under transformers' names (`optim`): all of them, including those that an image cannot run."""

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    ADAMW_8BIT = "adamw_8bit"
    ADAMW_BNB_8BIT = "adamw_bnb_8bit"
    PAGED_ADAMW_32BIT = "paged_adamw_32bit"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"
    ADEMAMIX = "ademamix"
    ADEMAMIX_8BIT = "ademamix_8bit"
    PAGED_ADEMAMIX_32BIT = "paged_ademamix_32bit"
    PAGED_ADEMAMIX_8BIT = "paged_ademamix_8bit"
    LION_32BIT = "lion_32bit"
    LION_8BIT = "lion_8bit"
    PAGED_LION_32BIT = "paged_lion_32bit"
    PAGED_LION_8BIT = "paged_lion_8bit"
    ADAFACTOR = "adafactor"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    RMSPROP_BNB = "rmsprop_bnb"
    RMSPROP_BNB_8BIT = "rmsprop_bnb_8bit"
    RMSPROP_BNB_32BIT = "rmsprop_bnb_32bit"
    SGD = "sgd"
    ADAMW_TORCH_4BIT = "adamw_torch_4bit"
    ADAMW_TORCH_8BIT = "adamw_torch_8bit"
    ADAMW_TORCH_XLA = "adamw_torch_xla"
    ADAMW_TORCH_NPU_FUSED = "adamw_torch_npu_fused"
    ADAMW_ANYPRECISION = "adamw_anyprecision"
    GALORE_ADAMW = "galore_adamw"
    GALORE_ADAMW_8BIT = "galore_adamw_8bit"
    GALORE_ADAFACTOR = "galore_adafactor"
    GALORE_ADAMW_LAYERWISE = "galore_adamw_layerwise"
    GALORE_ADAMW_8BIT_LAYERWISE = "galore_adamw_8bit_layerwise"
    GALORE_ADAFACTOR_LAYERWISE = "galore_adafactor_layerwise"
    LOMO = "lomo"
    ADALOMO = "adalomo"
    GROKADAMW = "grokadamw"
    SCHEDULE_FREE_RADAM = "schedule_free_radam"
    SCHEDULE_FREE_ADAMW = "schedule_free_adamw"
    SCHEDULE_FREE_SGD = "schedule_free_sgd"
    APOLLO_ADAMW = "apollo_adamw"
    APOLLO_ADAMW_LAYERWISE = "apollo_adamw_layerwise"
    STABLE_ADAMW = "stable_adamw"

    @property
    def package(self) -> str | None:
        """The module that provides it; None: PyTorch and transformers themselves."""
        return next((package for names, package in _OPTIMIZER_PACKAGES if self.value in names), None)

    @property
    def is_of_bitsandbytes(self) -> bool:
        """Whether bitsandbytes provides it."""
        return self.package == BITSANDBYTES


BITSANDBYTES: Final = "bitsandbytes"
_OPTIMIZER_PACKAGES: Final = (
    (
        (
            *("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "ademamix", "ademamix_8bit"),
            *("paged_ademamix_32bit", "paged_ademamix_8bit", "lion_32bit", "lion_8bit", "paged_lion_32bit"),
            *("paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
        ),
        BITSANDBYTES,
    ),
    (("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    (("adamw_torch_xla",), "torch_xla"),
    (("adamw_torch_npu_fused",), "torch_npu"),
    (("adamw_anyprecision",), "torchdistx"),
    (
        (
            *("galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise"),
            *("galore_adamw_8bit_layerwise", "galore_adafactor_layerwise"),
        ),
        "galore_torch",
    ),
    (("lomo", "adalomo"), "lomo_optim"),
    (("grokadamw",), "grokadamw"),
    (("schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd"), "schedulefree"),
    (("apollo_adamw", "apollo_adamw_layerwise"), "apollo_torch"),
    (("stable_adamw",), "optimi"),
)
"""Modules that provide optimizers."""

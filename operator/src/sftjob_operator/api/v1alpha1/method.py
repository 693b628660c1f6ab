"""How weights are adapted."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sftjob_contract.run.method import ComputeDtype, Lora, LoraBias, Quantization, QuantizationType
from sftjob_operator.api.types import Extra, Model, rule, rules
from sftjob_operator.api.v1alpha1.sources import REVISION_ON_HUB, ModelSource, Revision

ModuleName = Annotated[str, Field(min_length=1, max_length=128)]


class FullSpec(Model):
    """Full fine-tuning: every weight, or those of the names that unfrozenParameters has."""

    unfrozen_parameters: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
            Field(min_length=1, max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None
    ) = None
    """Regular expressions of Python that the names of weights to train begin with, such as
    model.layers.(2[0-9]|3[0-9]).mlp or lm_head; the others stay as they are. Absent: every weight is trained."""


class LoraSpec(Model):
    """LoRA: small matrices beside frozen weights."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the matrices. PEFT: r."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """Scale: updates are multiplied by alpha / rank. PEFT: lora_alpha."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of inputs dropped while training. PEFT: lora_dropout."""
    target_modules: Annotated[
        tuple[ModuleName, ...],
        Field(
            min_length=1,
            max_length=64,
            json_schema_extra={
                "x-kubernetes-list-type": "set",
                **rules(
                    rule(
                        "!('all-linear' in self) || self.size() == 1",
                        "all-linear already means every linear layer: remove the other names, or name layers only",
                    )
                ),
            },
        ),
    ] = ("all-linear",)
    """Layers to adapt: names such as q_proj, or all-linear for every linear layer but the head. PEFT:
    target_modules."""
    bias: LoraBias = LoraBias.NONE
    """Biases to train: none, all, or lora_only for those of adapted layers. PEFT: bias."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, which is steadier at high ranks (Kalajdzievski 2023). PEFT: use_rslora."""
    dora: bool = False
    """Adapt magnitude and direction apart, slower and often better at low ranks (Liu et al. 2024). PEFT: use_dora."""
    modules_to_save: Annotated[
        tuple[ModuleName, ...], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = ()
    """Layers to train as a whole and save with the adapter, such as embed_tokens and lm_head. PEFT:
    modules_to_save."""
    loraplus_lr_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Learning rate of matrix B over that of A, which is training.learningRate (LoRA+, Hayou et al. 2024); 16 is usual.
    Absent: both have the same."""
    extra: Extra = Field(default_factory=dict)
    """More fields of peft.LoraConfig, under its own names."""

    def to_contract(self) -> Lora:
        """Return this part of the run config."""
        return Lora(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            target_modules=self.target_modules,
            bias=self.bias,
            rslora=self.rslora,
            dora=self.dora,
            modules_to_save=self.modules_to_save,
            extra=self.extra,
            loraplus_lr_ratio=self.loraplus_lr_ratio,
        )


class QuantizationSpec(Model):
    """Frozen base weights in few bits (QLoRA)."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.bits == 4 || (self.type == 'nf4' && self.doubleQuantization && self.computeDtype == 'bfloat16')",
                "type, doubleQuantization and computeDtype are for bits: 4 only: remove them",
            )
        )
    )

    bits: Literal[4, 8] = 4
    """Bits per weight. transformers: load_in_4bit, load_in_8bit."""
    type: QuantizationType = QuantizationType.NF4
    """4-bit data type. transformers: bnb_4bit_quant_type."""
    double_quantization: bool = True
    """Quantize the 4-bit scales too, which saves about 0.4 bits per weight. transformers: bnb_4bit_use_double_quant."""
    compute_dtype: ComputeDtype = ComputeDtype.BFLOAT16
    """Dtype of the matrix products on 4-bit weights; in steps of fp16, bfloat16 means float16. transformers:
    bnb_4bit_compute_dtype."""

    def to_contract(self) -> Quantization:
        """Return this part of the run config."""
        return Quantization(
            bits=self.bits,
            type=self.type,
            double_quantization=self.double_quantization,
            compute_dtype=self.compute_dtype,
        )


class TeacherSpec(Model):
    """The model to learn from. It must have the tokenizer of the model that is trained."""

    model_config = ConfigDict(json_schema_extra=rules(REVISION_ON_HUB))

    source: ModelSource
    """Where the teacher is, in the form of model.source. Secrets are those of the model. AutoTrain: teacher_model."""
    revision: Revision | None = None
    """Branch, tag or commit on the hub."""


class DistillationSpec(Model):
    """Learn from a larger model's probabilities as well as from the data."""

    teacher: TeacherSpec
    """The model to learn from."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 3.0
    """Softens both distributions: logits are divided by it. AutoTrain: distill_temperature."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Share of the teacher in the loss; the rest is the usual loss. AutoTrain: distill_alpha."""


class MethodSpec(Model):
    """How weights are adapted: exactly one of full and lora."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.full) != has(self.lora)",
                "must have exactly one of full and lora: write full: {} to train every weight, or lora: {} for LoRA",
            ),
            rule(
                "!has(self.quantization) || has(self.lora)",
                "quantization needs lora, since quantized weights cannot be trained themselves: write lora: {} "
                "instead of full, or remove quantization",
            ),
        )
    )

    full: FullSpec | None = None
    """Train every weight."""
    lora: LoraSpec | None = None
    """Train LoRA matrices only; the output is an adapter."""
    quantization: QuantizationSpec | None = None
    """Quantize the frozen weights (QLoRA). Needs lora."""
    distillation: DistillationSpec | None = None
    """Learn from a teacher as well."""

"""The run config of a job, with every default that depends on other fields resolved."""

import hashlib
from functools import lru_cache
from typing import Final

from sftjob_contract.codec import to_json
from sftjob_contract.config import (
    RUN_CONFIG_VERSION,
    Checkpoints,
    Columns,
    Dataset,
    Evaluation,
    HeldOut,
    JobReference,
    Lora,
    Method,
    Model,
    Quantization,
    RunConfig,
    Scheduler,
    Training,
)
from sftjob_operator.api import DatasetSpec, MethodName, MethodSpec, SFTJob, SFTJobSpec, TrainingSpec

# The defaults that the descriptions in api/spec.py tell; the CRD can not hold them, since they depend on other fields.
DEFAULT_EPOCHS: Final = 3.0
DEFAULT_WARMUP_RATIO: Final = 0.03
DEFAULT_LEARNING_RATE_LORA: Final = 2e-4
DEFAULT_LEARNING_RATE_FULL: Final = 2e-5


def run_config(job: SFTJob) -> RunConfig:
    """Everything the trainer needs to know about `job`."""
    spec = job.spec
    return RunConfig(
        version=RUN_CONFIG_VERSION,
        job=JobReference(namespace=job.metadata.namespace, name=job.metadata.name, uid=job.metadata.uid),
        model=Model(
            source=spec.model.source, revision=spec.model.revision, trust_remote_code=spec.model.trust_remote_code
        ),
        dataset=_dataset(spec.dataset),
        method=_method(spec.method),
        training=_training(spec),
        evaluation=Evaluation(every_steps=spec.evaluation.every_steps),
        checkpoints=Checkpoints(every_steps=spec.checkpoints.every_steps, keep=spec.checkpoints.keep),
        gpus=spec.resources.gpus,
    )


@lru_cache(maxsize=256)  # each child of a job asks for the same one
def config_hash(config: RunConfig) -> str:
    """SHA-256 of the config's JSON, in hexadecimal."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def method_name(job: SFTJob) -> MethodName:
    """The method in one word, for status and columns."""
    if job.spec.method.lora is None:
        return MethodName.FULL
    return MethodName.LORA if job.spec.method.quantization is None else MethodName.QLORA


def _dataset(spec: DatasetSpec) -> Dataset:
    return Dataset(
        source=spec.source,
        revision=spec.revision,
        format=spec.format,
        columns=Columns(
            text=spec.columns.text,
            prompt=spec.columns.prompt,
            completion=spec.columns.completion,
            messages=spec.columns.messages,
        ),
        max_samples=spec.max_samples,
        evaluation=HeldOut(fraction=spec.evaluation.fraction, source=spec.evaluation.source),
    )


def _method(spec: MethodSpec) -> Method:
    lora, quantization = spec.lora, spec.quantization
    return Method(
        lora=None
        if lora is None
        else Lora(rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, target_modules=lora.target_modules),
        quantization=None
        if quantization is None
        else Quantization(
            bits=quantization.bits,
            type=quantization.type,
            double_quantization=quantization.double_quantization,
            compute_dtype=quantization.compute_dtype,
        ),
    )


def _training(spec: SFTJobSpec) -> Training:
    given = spec.training
    return Training(
        epochs=DEFAULT_EPOCHS if given.epochs is None and given.max_steps is None else given.epochs,
        max_steps=given.max_steps,
        per_device_batch_size=given.per_device_batch_size,
        gradient_accumulation_steps=given.gradient_accumulation_steps,
        learning_rate=_learning_rate(spec),
        scheduler=given.scheduler,
        warmup_ratio=_warmup_ratio(given),
        warmup_steps=given.warmup_steps,
        weight_decay=given.weight_decay,
        max_grad_norm=given.max_grad_norm,
        optimizer=given.optimizer,
        max_length=given.max_length,
        packing=given.packing,
        precision=given.precision,
        gradient_checkpointing=given.gradient_checkpointing,
        seed=given.seed,
        logging_steps=given.logging_steps,
    )


def _learning_rate(spec: SFTJobSpec) -> float:
    if spec.training.learning_rate is not None:
        return spec.training.learning_rate
    return DEFAULT_LEARNING_RATE_FULL if spec.method.lora is None else DEFAULT_LEARNING_RATE_LORA


def _warmup_ratio(given: TrainingSpec) -> float | None:
    if given.warmup_ratio is not None or given.warmup_steps is not None:
        return given.warmup_ratio
    return None if given.scheduler is Scheduler.CONSTANT else DEFAULT_WARMUP_RATIO

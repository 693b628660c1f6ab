"""The run config of a job, with every default that depends on other fields resolved."""

import dataclasses
from functools import lru_cache
from typing import Final

from sftjob_contract.codec import sha256_of
from sftjob_contract.layout import CHECKPOINTS, HUB_SCHEME, ClaimPath, checkpoint_name
from sftjob_contract.run import config as run
from sftjob_contract.run.destinations import HubRepository, Mlflow, Output, Tracking, Wandb
from sftjob_contract.run.method import Distillation, Method, Teacher
from sftjob_contract.run.optimization import Scheduler
from sftjob_contract.run.rope import RopeScaling, RopeType
from sftjob_operator.api import (
    ChatTemplateSpec,
    Columns,
    ConfigMapKeyRef,
    DatasetSpec,
    DataSourceSpec,
    DistillationSpec,
    MethodName,
    MethodSpec,
    ModelSpec,
    PreprocessingSpec,
    ResumeFromSpec,
    RopeScalingSpec,
    SFTJob,
    SFTJobSpec,
    TrackingSpec,
    TrainingSpec,
    ValidationSpec,
)

# Defaults documented in the descriptions in api; the CRD cannot contain them, since they depend on other fields.
DEFAULT_EPOCHS: Final = 3.0
DEFAULT_GRADIENT_ACCUMULATION_STEPS: Final = 4
DEFAULT_PER_EPOCH: Final = 1
DEFAULT_WEIGHT: Final = 1.0
DEFAULT_MAX_INVALID_ROWS: Final = 100
DEFAULT_FUNCTION: Final = "preprocess"
DEFAULT_VALIDATION_TIMEOUT_SECONDS: Final = 10
DEFAULT_WARMUP_RATIO: Final = 0.03
DEFAULT_LEARNING_RATE_LORA: Final = 2e-4
DEFAULT_LEARNING_RATE_FULL: Final = 2e-5


def run_config(job: SFTJob) -> run.RunConfig:
    """Build the run config: everything that the trainer needs to know about `job`.

    Raises:
        ValueError: a custom image trains, which gets no run config.
    """
    spec, recipe = job.spec, job.spec.recipe
    if recipe is None:
        raise ValueError(f"SFTJob {job.metadata.name} has no run config: spec.command trains")
    return run.RunConfig(
        version=run.RUN_CONFIG_VERSION,
        job=run.JobReference(namespace=job.metadata.namespace, name=job.metadata.name, uid=job.metadata.uid),
        model=_model(recipe.model),
        dataset=_dataset(recipe.dataset, spec.training),
        method=_method(recipe.method),
        training=_training(spec, recipe.method),
        evaluation=_evaluation(spec),
        checkpoints=_checkpoints(spec),
        output=_output(spec),
        tracking=_tracking(spec.tracking, job),
        gpus=spec.resources.gpus,
        nodes=spec.resources.nodes,
        existing_content=_existing_content(spec),
    )


def gradient_accumulation_steps(spec: SFTJobSpec) -> int:
    """Return the forward passes per optimizer step: as configured, or from the global batch size."""
    training = spec.training
    if training.gradient_accumulation_steps is not None:
        return training.gradient_accumulation_steps
    if training.global_batch_size is None:
        return DEFAULT_GRADIENT_ACCUMULATION_STEPS
    return max(1, training.global_batch_size // (training.per_device_batch_size * spec.resources.devices))


def data_sources(spec: DatasetSpec) -> tuple[DataSourceSpec, ...]:
    """Return the sources of the data, a single one as a list of one."""
    if spec.sources is not None:
        return spec.sources
    return (
        DataSourceSpec(
            source=spec.source or "",
            revision=spec.revision,
            subset=spec.subset,
            split=spec.split,
            max_samples=spec.max_samples,
        ),
    )


def file_path(reference: ConfigMapKeyRef) -> str:
    """Return the path of a user's file, relative to the mount of all of them."""
    return f"{reference.name}/{reference.key}"


def canonical(source: str) -> str:
    """Add the scheme to `source` if it is a bare ORG/NAME."""
    return source if "://" in source or source.startswith("/") else f"{HUB_SCHEME}{source}"


def recipe_config(job: SFTJob) -> run.RunConfig | None:
    """Return the run config; None for a custom image, which has none."""
    return None if job.spec.recipe is None else run_config(job)


@lru_cache(maxsize=256)  # every child of a job needs the same one
def config_hash(config: run.RunConfig) -> str:
    """Return the SHA-256 of the config's JSON, in hexadecimal."""
    return sha256_of(config)


def method_name(job: SFTJob) -> MethodName | None:
    """Return the method in one word, for status and columns; None if a custom image trains."""
    method = job.spec.method
    if method is None:
        return None
    if method.lora is None:
        return MethodName.FULL
    return MethodName.LORA if method.quantization is None else MethodName.QLORA


def _model(model: ModelSpec) -> run.Model:
    return run.Model(
        source=canonical(model.source),
        revision=model.revision,
        dtype=model.dtype,
        attention=model.attention,
        trust_remote_code=model.trust_remote_code,
        chat_template=None if model.chat_template is None else _chat_template(model.chat_template),
        add_eos_token=model.add_eos_token,
        padding_side=model.padding_side,
        # Absent rather than empty: a trainer of the previous release, which does not know the key, can then read the
        # config.
        chat_template_kwargs=model.chat_template_kwargs or None,
        rope_scaling=None if model.rope_scaling is None else _rope_scaling(model.rope_scaling),
        added_tokens=model.added_tokens or None,
        added_special_tokens=model.added_special_tokens or None,
    )


def _rope_scaling(spec: RopeScalingSpec) -> RopeScaling:
    """Return the scaling; llama3, which has no defaults in transformers, gets those of Llama 3.1."""
    of_llama3 = spec.type is RopeType.LLAMA3
    low, high = (spec.low_freq_factor or 1.0, spec.high_freq_factor or 4.0) if of_llama3 else (None, None)
    return RopeScaling(
        type=spec.type,
        factor=spec.factor,
        original_max_position_embeddings=spec.original_max_position_embeddings,
        attention_factor=spec.attention_factor,
        beta_fast=spec.beta_fast,
        beta_slow=spec.beta_slow,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _chat_template(spec: ChatTemplateSpec) -> run.ChatTemplate:
    reference = spec.config_map_key_ref
    file = None if reference is None else file_path(reference)
    return run.ChatTemplate(name=spec.name, jinja=spec.jinja, file=file)


def _dataset(data: DatasetSpec, training: TrainingSpec) -> run.Dataset:
    held_out = data.evaluation
    limit = DEFAULT_MAX_INVALID_ROWS if data.max_invalid_rows is None else data.max_invalid_rows
    return run.Dataset(
        sources=tuple(_data_source(part, data) for part in data_sources(data)),
        shuffle_seed=training.seed if data.shuffle_seed is None else data.shuffle_seed,
        deduplicate=data.deduplicate,
        min_tokens=data.min_tokens,
        max_tokens=data.max_tokens,
        on_invalid_row=data.on_invalid_row,
        max_invalid_rows=limit if data.on_invalid_row is run.OnInvalidRow.SKIP else 0,
        evaluation=run.HeldOut(
            fraction=held_out.fraction,
            split=held_out.split,
            source=None if held_out.source is None else canonical(held_out.source),
        ),
        # Absent rather than auto: a trainer of the previous release, which does not know the key, can then read the
        # config.
        render=None if data.render is run.Render.AUTO else data.render,
    )


def _data_source(part: DataSourceSpec, data: DatasetSpec) -> run.DataSource:
    return run.DataSource(
        source=canonical(part.source),
        revision=part.revision,
        subset=part.subset,
        split=part.split,
        format=part.format or data.format,
        columns=_columns(part.columns, data.columns),
        preprocessing=_preprocessing(part.preprocessing or data.preprocessing),
        validation=_validation(part.validation or data.validation),
        max_samples=part.max_samples,
        weight=DEFAULT_WEIGHT if part.weight is None else part.weight,
    )


def _columns(part: Columns | None, data: Columns) -> run.Columns:
    """Take each name from the source, else from the dataset, else the field's own."""
    names = (field.name for field in dataclasses.fields(run.Columns))
    return run.Columns(**{name: getattr(part, name, None) or getattr(data, name) or name for name in names})


def _preprocessing(spec: PreprocessingSpec | None) -> run.Preprocessing | None:
    if spec is None:
        return None
    template, function = spec.template, spec.function
    return run.Preprocessing(
        template=None
        if template is None
        else run.RowTemplate(text=template.text, prompt=template.prompt, completion=template.completion),
        function=None
        if function is None
        else run.RowFunction(
            file=file_path(function.config_map_key_ref),
            name=function.name or DEFAULT_FUNCTION,
        ),
    )


def _validation(spec: ValidationSpec | None) -> run.Validation | None:
    if spec is None:
        return None
    timeout = spec.timeout_seconds
    return run.Validation(
        column=spec.column,
        regex=spec.regex,
        syntax=spec.syntax,
        command=spec.command or (),
        timeout_seconds=DEFAULT_VALIDATION_TIMEOUT_SECONDS if timeout is None else timeout,
    )


def _method(spec: MethodSpec) -> Method:
    return Method(
        lora=None if spec.lora is None else spec.lora.to_contract(),
        quantization=None if spec.quantization is None else spec.quantization.to_contract(),
        distillation=None if spec.distillation is None else _distillation(spec.distillation),
        unfrozen_parameters=None if spec.full is None else spec.full.unfrozen_parameters,
    )


def _distillation(spec: DistillationSpec) -> Distillation:
    teacher = Teacher(source=canonical(spec.teacher.source), revision=spec.teacher.revision)
    return Distillation(teacher=teacher, temperature=spec.temperature, alpha=spec.alpha)


def _training(spec: SFTJobSpec, method: MethodSpec) -> run.Training:
    given = spec.training
    stopping = given.early_stopping
    return run.Training(
        epochs=DEFAULT_EPOCHS if given.epochs is None and given.max_steps is None else given.epochs,
        max_steps=given.max_steps,
        per_device_batch_size=given.per_device_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps(spec),
        learning_rate=_learning_rate(given, method),
        scheduler=given.scheduler,
        warmup_ratio=_warmup_ratio(given),
        warmup_steps=given.warmup_steps,
        weight_decay=given.weight_decay,
        max_grad_norm=given.max_grad_norm,
        optimizer=given.optimizer,
        max_length=given.max_length,
        packing=given.packing,
        packing_strategy=given.packing_strategy,
        loss_on=given.loss_on,
        precision=given.precision,
        gradient_checkpointing=given.gradient_checkpointing,
        neftune_noise_alpha=given.neftune_noise_alpha,
        kernels=given.kernels,
        compile=given.compile,
        early_stopping=None
        if stopping is None
        else run.EarlyStopping(patience=stopping.patience, threshold=stopping.threshold),
        seed=given.seed,
        logging_steps=given.logging_steps,
        extra=given.extra,
    )


def _learning_rate(given: TrainingSpec, method: MethodSpec) -> float:
    if given.learning_rate is not None:
        return given.learning_rate
    return DEFAULT_LEARNING_RATE_FULL if method.lora is None else DEFAULT_LEARNING_RATE_LORA


def _warmup_ratio(given: TrainingSpec) -> float | None:
    if given.warmup_ratio is not None or given.warmup_steps is not None:
        return given.warmup_ratio
    return None if given.scheduler is Scheduler.CONSTANT else DEFAULT_WARMUP_RATIO


def _evaluation(spec: SFTJobSpec) -> run.Evaluation:
    given = spec.evaluation
    return run.Evaluation(
        every_steps=given.every_steps,
        per_epoch=_per_epoch(given.every_steps, given.per_epoch),
        metrics=given.metrics,
        save_predictions=given.save_predictions,
        sample_prompts=given.sample_prompts,
        max_new_tokens=given.max_new_tokens,
        max_samples=given.max_samples,
        held_out_prompts=None if given.held_out_prompts == run.HELD_OUT_PROMPTS else given.held_out_prompts,
    )


def _checkpoints(spec: SFTJobSpec) -> run.Checkpoints:
    given = spec.checkpoints
    return run.Checkpoints(
        every_steps=given.every_steps,
        per_epoch=_per_epoch(given.every_steps, given.per_epoch),
        keep=given.keep,
        on_termination=given.on_termination,
        resume_from=None if given.resume_from is None else _resume_from(given.resume_from),
    )


def _per_epoch(every_steps: int | None, per_epoch: int | None) -> int | None:
    return DEFAULT_PER_EPOCH if every_steps is None and per_epoch is None else per_epoch


def _resume_from(spec: ResumeFromSpec) -> str:
    if spec.sft_job is None:
        return spec.source or ""
    path = CHECKPOINTS if spec.step is None else f"{CHECKPOINTS}/{checkpoint_name(spec.step)}"
    return ClaimPath(spec.sft_job, path).uri


def _output(spec: SFTJobSpec) -> Output:
    output = spec.output
    hub = output.hub
    return Output(
        merge_adapter=output.merge_adapter,
        hub=None if hub is None else HubRepository(repository=hub.repository, private=hub.private),
        upload_uri=None if output.upload is None else output.upload.uri,
        retain=output.retain,
        merge_dtype=output.merge_dtype,
    )


def _existing_content(spec: SFTJobSpec) -> run.ExistingContent | None:
    """None for the default, which trainers of the previous release follow without the key."""
    wanted = spec.storage.existing_content
    return None if wanted is run.ExistingContent.REFUSE else wanted


def _tracking(spec: TrackingSpec, job: SFTJob) -> Tracking:
    wandb, mlflow = spec.wandb, spec.mlflow
    return Tracking(
        tensorboard=spec.tensorboard,
        wandb=None
        if wandb is None
        else Wandb(
            project=wandb.project,
            entity=wandb.entity,
            name=wandb.name or f"{job.metadata.namespace}/{job.metadata.name}",
            base_url=wandb.base_url,
            offline=wandb.api_key_secret_ref is None,
        ),
        mlflow=None if mlflow is None else Mlflow(experiment=mlflow.experiment, tracking_uri=mlflow.tracking_uri),
    )

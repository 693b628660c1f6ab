"""Starting point of a run: the model, another run's checkpoint instead of its weights, and a teacher."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import EVA, Lora
from sftjob_trainer.models.added_tokens import PLAIN, SPECIAL
from sftjob_trainer.models.config_check import check_config
from sftjob_trainer.models.initial_adapter import INITIAL_ADAPTER
from sftjob_trainer.models.limits import model_settings
from sftjob_trainer.models.quantized_base import base_quantization, check_teacher
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.run.checkpoints import BrokenCheckpointError, verify
from sftjob_trainer.sources import remote
from sftjob_trainer.sources.missing_path import list_content, missing_path_message
from sftjob_trainer.sources.resolve import ResolvedModel, local_path, model_path, resolve_model
from sftjob_trainer.sources.weights import ReadFile
from sftjob_trainer.tokens.tokenizer import load_original_tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

ADAPTER_CONFIG: Final = "adapter_config.json"
"""PEFT's file that marks a directory as an adapter."""
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
"""transformers' file that every saved tokenizer has."""
_AS_EVA_CHOSE: Final = (
    f"write target_modules of its {ADAPTER_CONFIG} in method.lora.targetModules, and rank_pattern and alpha_pattern in "
    "method.lora.extra"
)


@dataclass(frozen=True, kw_only=True)
class ModelPaths:
    """Directories to load from. `model` also has the tokenizer; `teacher` is None without distillation.

    An optional `checkpoint` replaces the model's weights, or is the adapter to start from.
    """

    model: Path
    teacher: Path | None = None
    checkpoint: Path | None = None


def initial_paths(config: RunConfig, environment: Environment, stats: PreparedStats) -> ModelPaths:
    """What to load for the first step of a run.

    Raises:
        StageError: something does not exist or is unusable.
    """
    found = replace(resume_paths(config, environment, stats), checkpoint=starting_checkpoint(config, environment))
    if found.checkpoint is not None:
        check_tokens_of(found.checkpoint, found.model, config)
    return found


def resume_paths(config: RunConfig, environment: Environment, stats: PreparedStats) -> ModelPaths:
    """What to load for a run that resumes from a checkpoint of its own.

    Raises:
        StageError: something does not exist.
    """
    teacher = None
    if config.method.distillation is not None:
        snapshot = replace(stats, model_snapshot=stats.teacher_snapshot)
        teacher = model_path(_teacher_as_model(config), environment, snapshot)
    return ModelPaths(model=model_path(config, environment, stats), teacher=teacher)


def fetch_teacher(config: RunConfig, environment: Environment, model: ResolvedModel) -> ResolvedModel | None:
    """The teacher, downloaded if it is remote and checked against `model`; None without distillation.

    Raises:
        StageError: it does not exist, access is denied, or its tokenizer differs.
    """
    if config.method.distillation is None:
        return None
    teacher = resolve_model(_teacher_as_model(config), environment)
    check_config(teacher.directory, trust_remote_code=config.model.trust_remote_code, label="the teacher")
    check_teacher(
        config.method.distillation.teacher.source,
        base_quantization(model_settings(teacher.directory), teacher.directory),
    )
    check_teacher_tokenizer(
        load_tokenizer(model.directory, config.model), load_tokenizer(teacher.directory, config.model)
    )
    revision = f" at commit {teacher.revision}" if teacher.revision else ""
    logger.info("      teacher %s%s", config.method.distillation.teacher.source, revision)
    return teacher


def check_teacher_tokenizer(tokenizer: Any, teacher: Any) -> None:
    """Refuse a teacher whose tokens have other meanings.

    Raises:
        StageError: the two tokenizers have different vocabularies.
    """
    own_vocabulary, other_vocabulary = tokenizer.get_vocab(), teacher.get_vocab()
    if own_vocabulary == other_vocabulary:
        return
    differing = sorted(
        token
        for token in own_vocabulary.keys() | other_vocabulary.keys()
        if own_vocabulary.get(token) != other_vocabulary.get(token)
    )
    raise StageError(
        Reason.CONFIG_INVALID,
        "method.distillation.teacher: it must have the tokenizer of the model that is trained, but of "
        f"{len(own_vocabulary)} and {len(other_vocabulary)} tokens {len(differing)} differ, such as {differing[0]!r}; "
        "use a teacher of the same family",
    )


def starting_checkpoint(config: RunConfig, environment: Environment) -> Path | None:
    """The verified checkpoint of checkpoints.resumeFrom: the one it names, or the newest good one below it.

    Raises:
        StageError: there is none, or it does not match the method.
    """
    source = config.checkpoints.resume_from
    if source is None:
        return None
    if "://" in source and not source.startswith((layout.PVC_SCHEME, *remote.BUCKET_SCHEMES)):
        raise _refused(source, "it must be pvc://CLAIM/PATH, or an s3:// or gs:// URI, of a checkpoint directory")
    location = (
        _download_directory(source, environment)
        if remote.is_remote(source)
        else local_path(source, config, environment)
    )
    if not location.is_dir():
        raise StageError(Reason.MODEL_NOT_FOUND, f"checkpoints.resumeFrom: {missing_path_message(source, location)}")
    named = layout.checkpoint_step(location.name) is not None
    found = _verify(location, source) if named else _newest_verified(location, source)
    is_adapter = (found / ADAPTER_CONFIG).is_file()
    if is_adapter and config.method.lora is None:
        raise _refused(source, "it is a LoRA adapter, but this run trains every weight; write method.lora")
    if not is_adapter and config.method.lora is not None:
        raise _refused(source, "it is a whole model, but this run trains an adapter; name it in model.source instead")
    logger.info("starting from the weights of %s", found)
    return found


def check_tokens_of(checkpoint: Path, model: Path, config: RunConfig) -> None:
    """Refuse a checkpoint whose embedding rows stand for other tokens than those of this run.

    Raises:
        StageError: its tokenizer has another vocabulary.
    """
    if not (checkpoint / _TOKENIZER_CONFIG).is_file():
        return
    own_vocabulary = load_tokenizer(model, config.model).get_vocab()
    other_vocabulary = load_original_tokenizer(checkpoint, config.model).get_vocab()
    if own_vocabulary == other_vocabulary:
        return
    differing = sorted(
        token
        for token in own_vocabulary.keys() | other_vocabulary.keys()
        if own_vocabulary.get(token) != other_vocabulary.get(token)
    )
    raise _refused(
        config.checkpoints.resume_from or str(checkpoint),
        f"its tokenizer has {len(other_vocabulary)} tokens and that of this run {len(own_vocabulary)}, of which "
        f"{len(differing)} differ, such as {differing[0]!r}; write {PLAIN} and {SPECIAL} as that run had them, or "
        "name its output in model.source",
    )


def fetch_checkpoint(config: RunConfig, environment: Environment, model: Path) -> None:
    """Download the other run's checkpoint from an object store: the named one, or the newest that verifies.

    Its tokens must be those that this run has with the model in `model`.

    Raises:
        StageError: there is none, it is unusable, or access is denied.
    """
    source = config.checkpoints.resume_from
    if source is None or not source.startswith(remote.BUCKET_SCHEMES):
        return
    root, name = _split(source)
    if name is None:
        _fetch_newest(source, environment)
    else:
        remote.fetch(root, "checkpoint", lambda names, _: _checkpoint_files(name, names), environment)
    found = starting_checkpoint(config, environment)
    if found is not None:
        check_tokens_of(found, model, config)


def load_adapter(model: Any, directory: Path, lora: Lora) -> None:
    """Load the adapter of a checkpoint into `model`, which has a new adapter for `lora`.

    Raises:
        StageError: the two differ in shape or scale.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    settings = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if (directory / INITIAL_ADAPTER).is_file():
        raise _adapter_mismatch(directory, "it was trained on a base that its initialization had changed")
    configured = {"r": lora.rank, "lora_alpha": lora.alpha, "use_rslora": lora.rslora, "use_dora": lora.dora}
    names = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}
    for name, value in configured.items():
        if settings.get(name) != value:
            found_value = json.dumps(settings.get(name))
            raise _adapter_mismatch(
                directory, f"it was trained with {names[name]} {found_value}, not {json.dumps(value)}"
            )
    weights = load_peft_weights(str(directory), device="cpu")
    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different and settings.get("init_lora_weights") == EVA:
        raise _adapter_mismatch(directory, "EVA chose its layers and their ranks", _AS_EVA_CHOSE)
    if different:
        raise _adapter_mismatch(directory, f"{different[0]} and {len(different) - 1} more of its weights do not fit")
    set_peft_model_state_dict(model, weights)


def _fetch_newest(source: str, environment: Environment) -> None:
    """Download the checkpoints below `source`, newest first, until one verifies."""
    tried: list[int] = []

    def next_older(names: Sequence[str], _: ReadFile) -> Sequence[str]:
        manifests = [
            path for path in map(PurePosixPath, names) if path.name == layout.MANIFEST and len(path.parts) == 2
        ]
        steps = [step for path in manifests if (step := layout.checkpoint_step(path.parts[0])) is not None]
        older = [step for step in steps if not tried or step < tried[-1]]
        if not older:
            return ()
        tried.append(max(older))
        return _checkpoint_files(layout.checkpoint_name(tried[-1]), names)

    while True:
        location = remote.fetch(source, "checkpoint", next_older, environment)
        try:
            _verify(location / layout.checkpoint_name(tried[-1]), source)
        except StageError as failure:
            logger.warning("%s", failure.message)
        else:
            return


def _checkpoint_files(checkpoint: str, names: Sequence[str]) -> Sequence[str]:
    """Those of `names` that belong to a checkpoint; empty if the checkpoint is not complete."""
    complete = f"{checkpoint}/{layout.MANIFEST}" in names
    return [name for name in names if name.startswith(f"{checkpoint}/")] if complete else ()


def _split(uri: str) -> tuple[str, str | None]:
    """The URI of a directory of checkpoints, and the checkpoint that `uri` names, if any."""
    root, _, name = uri.rstrip("/").rpartition("/")
    return (uri, None) if layout.checkpoint_step(name) is None or root.endswith("/") else (root, name)


def _download_directory(uri: str, environment: Environment) -> Path:
    root, name = _split(uri)
    return remote.cache_directory(root, environment) / (name or "")


def _newest_verified(root: Path, source: str) -> Path:
    steps = sorted((step for path in root.iterdir() if (step := layout.checkpoint_step(path.name))), reverse=True)
    for step in steps:
        try:
            return _verify(root / layout.checkpoint_name(step), source)
        except StageError as failure:
            logger.warning("%s", failure.message)
    raise _refused(source, f"it has no complete checkpoint; it has {list_content(root)}", Reason.MODEL_NOT_FOUND)


def _verify(directory: Path, source: str) -> Path:
    try:
        verify(directory)
    except BrokenCheckpointError as broken:
        raise _refused(source, f"{directory.name} cannot be used: {broken}", Reason.MODEL_NOT_FOUND) from broken
    return directory


def _teacher_as_model(config: RunConfig) -> RunConfig:
    """`config` with the teacher in place of the model, to find and fetch it the same way."""
    distillation = config.method.distillation
    if distillation is None:
        raise ValueError("there is no teacher without method.distillation")
    teacher = distillation.teacher
    return replace(config, model=replace(config.model, source=teacher.source, revision=teacher.revision))


def _refused(source: str, problem: str, reason: Reason = Reason.CONFIG_INVALID) -> StageError:
    return StageError(reason, f"checkpoints.resumeFrom: {source}: {problem}")


def _adapter_mismatch(
    directory: Path, problem: str, advice: str = "write method.lora as that run had it"
) -> StageError:
    return StageError(
        Reason.CONFIG_INVALID,
        f"checkpoints.resumeFrom: the adapter in {directory.name} does not match method.lora: {problem}; {advice}",
    )

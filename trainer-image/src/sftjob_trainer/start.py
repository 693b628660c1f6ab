"""What a run starts from: the model, another run's checkpoint instead of its weights, and a teacher."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.config import RunConfig
from sftjob_contract.method import EVA, Lora
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer import remote
from sftjob_trainer.added_tokens import PLAIN, SPECIAL
from sftjob_trainer.checkpoints import BrokenCheckpointError, verify
from sftjob_trainer.config_check import check_config
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.initial_adapter import INITIAL_ADAPTER
from sftjob_trainer.limits import model_settings
from sftjob_trainer.neighbours import content, is_missing
from sftjob_trainer.quantized_base import base_quantization, check_teacher
from sftjob_trainer.sources import ResolvedModel, local_path, model_path, resolve_model
from sftjob_trainer.tokenization import load_tokenizer, own_tokenizer
from sftjob_trainer.weights import Read

logger = logging.getLogger(__name__)

ADAPTER_CONFIG: Final = "adapter_config.json"
"""PEFT's file that makes a directory an adapter."""
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
"""transformers' file that every saved tokenizer has."""
_AS_EVA_CHOSE: Final = (
    f"write target_modules of its {ADAPTER_CONFIG} in method.lora.targetModules, and rank_pattern and alpha_pattern in "
    "method.lora.extra"
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Directories to load from. `model` has the tokenizer too; no `teacher`: no distillation.

    `checkpoint`, where there is one, replaces the weights of the model, or is the adapter to start from.
    """

    model: Path
    teacher: Path | None = None
    checkpoint: Path | None = None


def origin(config: RunConfig, environment: Environment, stats: PreparedStats) -> Origin:
    """What to load for the first step of a run.

    Raises:
        Failure: something of it is not there, or can not be used.
    """
    found = replace(continued(config, environment, stats), checkpoint=starting_checkpoint(config, environment))
    if found.checkpoint is not None:
        check_tokens_of(found.checkpoint, found.model, config)
    return found


def continued(config: RunConfig, environment: Environment, stats: PreparedStats) -> Origin:
    """What to load for a run that goes on from a checkpoint of its own.

    Raises:
        Failure: something of it is not there.
    """
    teacher = None
    if config.method.distillation is not None:
        snapshot = replace(stats, model_snapshot=stats.teacher_snapshot)
        teacher = model_path(_as_model(config), environment, snapshot)
    return Origin(model=model_path(config, environment, stats), teacher=teacher)


def fetch_teacher(config: RunConfig, environment: Environment, model: ResolvedModel) -> ResolvedModel | None:
    """The teacher, downloaded if it lies elsewhere and fit to teach `model`; None without distillation.

    Raises:
        Failure: it is not there, we may not have it, or its tokenizer is another.
    """
    if config.method.distillation is None:
        return None
    teacher = resolve_model(_as_model(config), environment)
    check_config(teacher.directory, trust_remote_code=config.model.trust_remote_code, whose="the teacher")
    check_teacher(
        config.method.distillation.teacher.source,
        base_quantization(model_settings(teacher.directory), teacher.directory),
    )
    check_teacher_tokenizer(
        load_tokenizer(model.directory, config.model), load_tokenizer(teacher.directory, config.model)
    )
    at = f" at commit {teacher.revision}" if teacher.revision else ""
    logger.info("      teacher %s%s", config.method.distillation.teacher.source, at)
    return teacher


def check_teacher_tokenizer(tokenizer: Any, teacher: Any) -> None:
    """Refuse a teacher that means something else by the same token.

    Raises:
        Failure: the two tokenizers have different vocabularies.
    """
    ours, theirs = tokenizer.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    raise Failure(
        Reason.CONFIG_INVALID,
        "method.distillation.teacher: it must have the tokenizer of the model that is trained, but of "
        f"{len(ours)} and {len(theirs)} tokens {len(differing)} differ, such as {differing[0]!r}; "
        "use a teacher of the same family",
    )


def starting_checkpoint(config: RunConfig, environment: Environment) -> Path | None:
    """The checkpoint that checkpoints.resumeFrom means, verified: the one it names, or the newest good one below it.

    Raises:
        Failure: there is none, or it does not suit the method.
    """
    source = config.checkpoints.resume_from
    if source is None:
        return None
    if "://" in source and not source.startswith((layout.PVC_SCHEME, *remote.BUCKET_SCHEMES)):
        raise _refused(source, "it must be pvc://CLAIM/PATH, or an s3:// or gs:// URI, of a checkpoint directory")
    place = _downloaded(source, environment) if remote.is_remote(source) else local_path(source, config, environment)
    if not place.is_dir():
        raise Failure(Reason.MODEL_NOT_FOUND, f"checkpoints.resumeFrom: {is_missing(source, place)}")
    named = layout.checkpoint_step(place.name) is not None
    found = _verified(place, source) if named else _newest(place, source)
    is_adapter = (found / ADAPTER_CONFIG).is_file()
    if is_adapter and config.method.lora is None:
        raise _refused(source, "it is a LoRA adapter, but this run trains every weight; write method.lora")
    if not is_adapter and config.method.lora is not None:
        raise _refused(source, "it is a whole model, but this run trains an adapter; name it in model.source instead")
    logger.info("starting from the weights of %s", found)
    return found


def check_tokens_of(checkpoint: Path, model: Path, config: RunConfig) -> None:
    """Refuse a checkpoint whose rows of the embedding mean other tokens than those of this run.

    Raises:
        Failure: its tokenizer has another vocabulary.
    """
    if not (checkpoint / _TOKENIZER_CONFIG).is_file():
        return
    ours = load_tokenizer(model, config.model).get_vocab()
    theirs = own_tokenizer(checkpoint, config.model).get_vocab()
    if ours == theirs:
        return
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    raise _refused(
        config.checkpoints.resume_from or str(checkpoint),
        f"its tokenizer has {len(theirs)} tokens and that of this run {len(ours)}, of which {len(differing)} differ, "
        f"such as {differing[0]!r}; write {PLAIN} and {SPECIAL} as that run had them, or name its output in "
        "model.source",
    )


def fetch_checkpoint(config: RunConfig, environment: Environment, model: Path) -> None:
    """Download the other run's checkpoint, if it lies in an object store: the one named, or the newest that verifies.

    It must be of the tokens that this run has with the model in `model`.

    Raises:
        Failure: there is none, it can not be used, or we may not have it.
    """
    source = config.checkpoints.resume_from
    if source is None or not source.startswith(remote.BUCKET_SCHEMES):
        return
    root, name = _split(source)
    if name is None:
        _fetch_newest(source, environment)
    else:
        remote.fetch(root, "checkpoint", lambda names, _: _files_of(name, names), environment)
    found = starting_checkpoint(config, environment)
    if found is not None:
        check_tokens_of(found, model, config)


def load_adapter(model: Any, directory: Path, lora: Lora) -> None:
    """Put the adapter of a checkpoint into `model`, which has a fresh one for `lora`.

    Raises:
        Failure: the two have not the same shape or scale.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    settings = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if (directory / INITIAL_ADAPTER).is_file():
        raise _unlike(directory, "it was trained on a base that its initialization had changed")
    asked = {"r": lora.rank, "lora_alpha": lora.alpha, "use_rslora": lora.rslora, "use_dora": lora.dora}
    names = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}
    for name, value in asked.items():
        if settings.get(name) != value:
            there = json.dumps(settings.get(name))
            raise _unlike(directory, f"it was trained with {names[name]} {there}, not {json.dumps(value)}")
    weights = load_peft_weights(str(directory), device="cpu")
    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different and settings.get("init_lora_weights") == EVA:
        raise _unlike(directory, "EVA chose its layers and their ranks", _AS_EVA_CHOSE)
    if different:
        raise _unlike(directory, f"{different[0]} and {len(different) - 1} more of its weights do not fit")
    set_peft_model_state_dict(model, weights)


def _fetch_newest(source: str, environment: Environment) -> None:
    """Download the newest checkpoint below `source` that verifies, one after the other until one does."""
    tried: list[int] = []

    def next_older(names: Sequence[str], _: Read) -> Sequence[str]:
        manifests = [
            path for path in map(PurePosixPath, names) if path.name == layout.MANIFEST and len(path.parts) == 2
        ]
        steps = [step for path in manifests if (step := layout.checkpoint_step(path.parts[0])) is not None]
        older = [step for step in steps if not tried or step < tried[-1]]
        if not older:
            return ()
        tried.append(max(older))
        return _files_of(layout.checkpoint_name(tried[-1]), names)

    while True:
        place = remote.fetch(source, "checkpoint", next_older, environment)
        try:
            _verified(place / layout.checkpoint_name(tried[-1]), source)
        except Failure as failure:
            logger.warning("%s", failure.message)
        else:
            return


def _files_of(checkpoint: str, names: Sequence[str]) -> Sequence[str]:
    """Those of `names` that are of a checkpoint; none if it is not complete."""
    complete = f"{checkpoint}/{layout.MANIFEST}" in names
    return [name for name in names if name.startswith(f"{checkpoint}/")] if complete else ()


def _split(uri: str) -> tuple[str, str | None]:
    """The URI of a directory of checkpoints, and the one of them that `uri` names, if it does."""
    root, _, name = uri.rstrip("/").rpartition("/")
    return (uri, None) if layout.checkpoint_step(name) is None or root.endswith("/") else (root, name)


def _downloaded(uri: str, environment: Environment) -> Path:
    root, name = _split(uri)
    return remote.cached(root, environment) / (name or "")


def _newest(root: Path, source: str) -> Path:
    steps = sorted((step for path in root.iterdir() if (step := layout.checkpoint_step(path.name))), reverse=True)
    for step in steps:
        try:
            return _verified(root / layout.checkpoint_name(step), source)
        except Failure as failure:
            logger.warning("%s", failure.message)
    raise _refused(source, f"it has no complete checkpoint; it has {content(root)}", Reason.MODEL_NOT_FOUND)


def _verified(directory: Path, source: str) -> Path:
    try:
        verify(directory)
    except BrokenCheckpointError as broken:
        raise _refused(source, f"{directory.name} can not be used: {broken}", Reason.MODEL_NOT_FOUND) from broken
    return directory


def _as_model(config: RunConfig) -> RunConfig:
    """`config` with the teacher in the place of the model, to be found and fetched the same way."""
    distillation = config.method.distillation
    if distillation is None:
        raise ValueError("there is no teacher without method.distillation")
    teacher = distillation.teacher
    return replace(config, model=replace(config.model, source=teacher.source, revision=teacher.revision))


def _refused(source: str, problem: str, reason: Reason = Reason.CONFIG_INVALID) -> Failure:
    return Failure(reason, f"checkpoints.resumeFrom: {source}: {problem}")


def _unlike(directory: Path, problem: str, instead: str = "write method.lora as that run had it") -> Failure:
    return Failure(
        Reason.CONFIG_INVALID,
        f"checkpoints.resumeFrom: the adapter in {directory.name} does not suit method.lora: {problem}; {instead}",
    )

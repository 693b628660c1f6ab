"""Where models and data sets lie: hf://, pvc:// and plain paths, resolved to local paths."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sftjob_contract.config import RunConfig
from sftjob_contract.layout import HUB_SCHEME, PVC_SCHEME, ClaimPath
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer import files, hub
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model on this machine. `revision` is its commit on the hub, None when it did not come from there."""

    directory: Path
    revision: str | None


def resolve_model(config: RunConfig, environment: Environment) -> ResolvedModel:
    """The model to start from, downloaded if it lies on a hub.

    Raises:
        Failure: it is not there, or we may not have it.
    """
    source = config.model.source
    if source.startswith(HUB_SCHEME):
        snapshot = hub.download_model(source, config.model.revision, environment)
        return ResolvedModel(directory=_checked_model(snapshot.directory, source), revision=snapshot.commit)
    return ResolvedModel(directory=_checked_model(local_path(source, config, environment), source), revision=None)


def resolve_dataset(
    source: str, revision: str | None, config: RunConfig, environment: Environment
) -> Sequence[files.DataFile]:
    """The files of the data set `source`, downloaded if they lie on a hub.

    Raises:
        Failure: there are none, or we may not have them.
    """
    if source.startswith(HUB_SCHEME):
        path = hub.download_dataset(source, revision, environment)
    else:
        path = local_path(source, config, environment)
    return files.data_files(path, source)


def model_path(config: RunConfig, environment: Environment, stats: PreparedStats | None) -> Path:
    """Directory to load the model from, without a network: the downloaded snapshot, a claim, or the plain path.

    Raises:
        Failure: the model is not there, or its source is not one that can be read.
    """
    source = config.model.source
    if not source.startswith(HUB_SCHEME):
        return _checked_model(local_path(source, config, environment), source)
    if stats is None or stats.model_snapshot is None:
        raise Failure(Reason.MODEL_NOT_FOUND, f"{source} has not been downloaded")
    return _checked_model(environment.cache / stats.model_snapshot, source)


def local_path(source: str, config: RunConfig, environment: Environment) -> Path:
    """The path of a `pvc://CLAIM/PATH` or plain-path source; whether something is there is not checked.

    A claim with the job's own name is its volume, which has its own place.

    Raises:
        Failure: the source can not be parsed, or no claims are mounted.
    """
    if not source.startswith(PVC_SCHEME):
        return Path(source)
    try:
        place = ClaimPath.parse(source)
    except ValueError as error:
        raise Failure(Reason.CONFIG_INVALID, str(error)) from error
    if place.claim == config.job.name:
        return environment.volume / place.path
    if environment.claims is None:
        raise Failure(Reason.CONFIG_INVALID, f"{source}: the claim {place.claim} is not mounted in this container")
    return environment.claims / place.claim / place.path


def _checked_model(directory: Path, source: str) -> Path:
    if not directory.is_dir():
        raise Failure(Reason.MODEL_NOT_FOUND, f"{source}: there is no directory {directory}")
    if not (directory / "config.json").is_file():
        hint = ""
        if (directory / "adapter_config.json").is_file():
            hint = "; it is a LoRA adapter: merge it into its base model first"
        raise Failure(Reason.MODEL_NOT_FOUND, f"{source}: there is no config.json in {directory}{hint}")
    if not any(file.suffix in (".safetensors", ".bin") for file in directory.iterdir()):
        raise Failure(Reason.MODEL_NOT_FOUND, f"{source}: there are no weights (*.safetensors) in {directory}")
    return directory

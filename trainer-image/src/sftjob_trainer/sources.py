"""Where models and data sets lie: hf://, pvc://, s3://, gs://, https:// and plain paths, resolved to local paths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sftjob_contract.config import DataSource, RunConfig
from sftjob_contract.layout import HUB_SCHEME, PVC_SCHEME, ClaimPath
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer import files, hub, remote, splits
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.neighbours import content, is_missing
from sftjob_trainer.permissions import check_readable
from sftjob_trainer.weights import weight_files

_TO_EVALUATE_ON: Final = ("validation", "test", splits.TRAIN)
"""Split of a data set of its own to evaluate on: the first of these that it has."""


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model on this machine. `revision` is its commit on the hub, None when it did not come from there.

    `downloaded`: it lies in the cache.
    """

    directory: Path
    revision: str | None
    downloaded: bool


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the data and where it is read from: `splits` in order of preference, none for everything there."""

    source: DataSource
    splits: tuple[str, ...]


def is_downloaded(source: str) -> bool:
    """Whether `source` is somewhere else and comes into the cache."""
    return source.startswith(HUB_SCHEME) or remote.is_remote(source)


def resolve_model(config: RunConfig, environment: Environment) -> ResolvedModel:
    """The model to start from, downloaded if it lies elsewhere.

    Raises:
        Failure: it is not there, or we may not have it.
    """
    source = config.model.source
    revision = None
    if source.startswith(HUB_SCHEME):
        snapshot = hub.download_model(source, config.model.revision, environment)
        directory, revision = snapshot.directory, snapshot.commit
    elif remote.is_remote(source):
        directory = remote.fetch(source, "model", hub.model_files, environment)
    else:
        directory = local_path(source, config, environment)
    directory = _checked_model(directory, source)
    if source.startswith(PVC_SCHEME):
        files.check_links(directory.iterdir(), source)
    return ResolvedModel(directory=directory, revision=revision, downloaded=is_downloaded(source))


def training_parts(config: RunConfig) -> list[Part]:
    """What to train on. A repository on the hub is read by its split, a path in one whole unless a split is named."""
    return [Part(source=part, splits=_splits(part, (splits.TRAIN,))) for part in config.dataset.sources]


def evaluation_parts(config: RunConfig) -> list[Part]:
    """What to evaluate on: nothing (rows of the training data are held out), a split of each source, or one of its own.

    One of its own has the format and columns of the first source.
    """
    held_out, first = config.dataset.evaluation, config.dataset.sources[0]
    if held_out.split is not None:
        return [
            Part(source=replace(part, max_samples=None), splits=(held_out.split,)) for part in config.dataset.sources
        ]
    if held_out.source is None:
        return []
    same_repository = hub.same_repository(held_out.source, first.source)
    own = replace(
        first,
        source=held_out.source,
        revision=first.revision if same_repository else None,
        subset=first.subset if same_repository else None,
        split=None,
        max_samples=None,
    )
    return [Part(source=own, splits=_splits(own, _TO_EVALUATE_ON))]


def resolve_part(part: Part, config: RunConfig, environment: Environment) -> Sequence[files.DataFile]:
    """The files of a part of the data, downloaded if they lie elsewhere.

    Raises:
        Failure: there are none, or we may not have them.
    """
    source = part.source
    if source.source.startswith(HUB_SCHEME):
        return hub.download_dataset(
            source.source, source.revision, environment, subset=source.subset, splits=part.splits
        )
    if part.splits or source.subset is not None:
        raise Failure(
            Reason.CONFIG_INVALID, f"{source.source} has no splits or subsets, which are of data sets on the hub"
        )
    if remote.is_remote(source.source):
        path = remote.fetch(source.source, "dataset", lambda names, _: files.data_names(names), environment)
        return files.data_files(path, source.source)
    found = files.data_files(local_path(source.source, config, environment), source.source)
    if source.source.startswith(PVC_SCHEME):
        files.check_links((file.path for file in found), source.source)
    return found


def model_path(config: RunConfig, environment: Environment, stats: PreparedStats | None) -> Path:
    """Directory to load the model from, without a network: what was downloaded, a claim, or the plain path.

    Raises:
        Failure: the model is not there, or its source is not one that can be read.
    """
    source = config.model.source
    if not is_downloaded(source):
        return _checked_model(local_path(source, config, environment), source)
    if stats is None or stats.model_snapshot is None:
        raise Failure(Reason.MODEL_NOT_FOUND, f"{source} has not been downloaded")
    return _checked_model(environment.cache / stats.model_snapshot, source)


def local_path(source: str, config: RunConfig, environment: Environment) -> Path:
    """The path of a `pvc://CLAIM/PATH` or plain-path source; whether something is there is not checked.

    A claim with the job's own name is its volume, which has its own place, unless it is mounted below the claims: the
    volume of a job that works on a claim that was there before is only a directory of it.

    Raises:
        Failure: the source can not be parsed, or no claims are mounted.
    """
    if not source.startswith(PVC_SCHEME):
        if "://" in source:
            raise Failure(Reason.CONFIG_INVALID, f"{source} must be {', '.join(_FORMS)} or a path in the container")
        return Path(source)
    try:
        place = ClaimPath.parse(source)
    except ValueError as error:
        raise Failure(Reason.CONFIG_INVALID, str(error)) from error
    mounted = None if environment.claims is None else environment.claims / place.claim
    if place.claim == config.job.name and not (mounted and mounted.is_dir()):
        return environment.volume / place.path
    if mounted is None:
        raise Failure(Reason.CONFIG_INVALID, f"{source}: the claim {place.claim} is not mounted in this container")
    return mounted / place.path


_FORMS: Final = (f"an {HUB_SCHEME}", PVC_SCHEME, *remote.SCHEMES)


def _splits(source: DataSource, usual: tuple[str, ...]) -> tuple[str, ...]:
    if source.split is not None:
        return (source.split,)
    return usual if hub.is_whole_repository(source.source) else ()


def _checked_model(directory: Path, source: str) -> Path:
    if not directory.is_dir():
        problem = f"{source} is a file, not a directory" if directory.exists() else is_missing(source, directory)
        raise Failure(Reason.MODEL_NOT_FOUND, problem)
    check_readable([directory], source)
    if not (directory / "config.json").is_file():
        hint = ""
        if (directory / "adapter_config.json").is_file():
            hint = "; it is a LoRA adapter: merge it into its base model first"
        raise Failure(Reason.MODEL_NOT_FOUND, f"{source} has no config.json; it has {content(directory)}{hint}")

    def read(name: str) -> bytes:
        return (directory / name).read_bytes()

    names = [file.name for file in directory.iterdir() if file.is_file()]
    weights = weight_files(names, read)
    if not weights:
        has = content(directory)
        raise Failure(Reason.MODEL_NOT_FOUND, f"{source} has no weights (*.safetensors); it has {has}")
    if absent := sorted(set(weights) - set(names)):
        raise Failure(
            Reason.MODEL_NOT_FOUND,
            f"{source} has no {absent[0]}, which the index of its weights names; it has {content(directory)}",
        )
    check_readable((directory / name for name in hub.model_files(names, read)), source)
    return directory

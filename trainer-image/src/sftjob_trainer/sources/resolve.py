"""Locations of models and datasets: hf://, pvc://, s3://, gs://, https:// and plain paths, resolved to local paths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote

from sftjob_contract.layout import HUB_SCHEME, PVC_SCHEME, ClaimPath
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import DataSource, RunConfig
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.permissions import check_readable
from sftjob_trainer.sources import files, hub, remote, splits
from sftjob_trainer.sources.missing_path import list_content, missing_path_message
from sftjob_trainer.sources.weights import ReadFile, weight_files

_EVALUATION_SPLITS: Final = ("validation", "test", splits.TRAIN)
"""Split of a separate evaluation dataset: the first of these that it has."""


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model on this machine. `revision` is its commit on the hub; None if it is from elsewhere.

    `downloaded`: it is in the cache.
    """

    directory: Path
    revision: str | None
    downloaded: bool


@dataclass(frozen=True)
class DataPart:
    """A part of the data and its source: `splits` in order of preference.

    `split_is_set`: the spec names the split; otherwise a location without splits is read as a whole.
    """

    source: DataSource
    splits: tuple[str, ...]
    split_is_set: bool = False

    @property
    def wanted(self) -> files.FileSelection:
        """What to read from a folder."""
        return files.FileSelection(splits=self.splits, subset=self.source.subset, split_is_set=self.split_is_set)


def is_downloaded(source: str) -> bool:
    """Whether `source` is remote and is downloaded into the cache."""
    return source.startswith(HUB_SCHEME) or remote.is_remote(source)


def resolve_model(config: RunConfig, environment: Environment) -> ResolvedModel:
    """Find the model to start from; download it if it is remote.

    Raises:
        StageError: it does not exist, or access is denied.
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


def training_parts(config: RunConfig) -> list[DataPart]:
    """What to train on: for a repository on the hub or any folder, the split train by default."""
    return [_part(source, (splits.TRAIN,)) for source in config.dataset.sources]


def evaluation_parts(config: RunConfig) -> list[DataPart]:
    """What to evaluate on: nothing (training rows are held out), a split of each source, or a separate dataset.

    A separate dataset has the format and columns of the first source.
    """
    held_out, first = config.dataset.evaluation, config.dataset.sources[0]
    if held_out.split is not None:
        wanted = (held_out.split,)
        return [DataPart(replace(part, max_samples=None), wanted, split_is_set=True) for part in config.dataset.sources]
    if held_out.source is None:
        return []
    same_repository = hub.same_repository(held_out.source, first.source)
    evaluation_source = replace(
        first,
        source=held_out.source,
        revision=first.revision if same_repository else None,
        subset=first.subset if same_repository else None,
        split=None,
        max_samples=None,
    )
    return [_part(evaluation_source, _EVALUATION_SPLITS)]


def resolve_part(part: DataPart, config: RunConfig, environment: Environment) -> files.SourceFiles:
    """The files of a part of the data, downloaded if they are remote.

    Raises:
        StageError: there are none, or access is denied.
    """
    source = part.source.source
    if source.startswith(HUB_SCHEME):
        return hub.download_dataset(source, part.source.revision, environment, part.wanted)
    if remote.is_remote(source):
        return _fetch_part(source, part.wanted, environment)
    found = files.data_files(local_path(source, config, environment), source, part.wanted)
    if source.startswith(PVC_SCHEME):
        files.check_links((file.path for file in found.files), source)
    return found


def _fetch_part(source: str, wanted: files.FileSelection, environment: Environment) -> files.SourceFiles:
    """A file, a folder or an archive of one, from an object store or a web server."""
    display_uri = remote.display_uri(source)
    chosen: list[files.FileNames] = []

    def select(names: Sequence[str], read: ReadFile) -> Sequence[str]:
        if is_only_file(source, names):
            return files.data_names(names)
        files.check_no_unsupported(names, display_uri)
        try:
            chosen.append(files.choose_names(names, read, wanted))
        except splits.SplitError as error:
            raise files.split_error(display_uri, error) from error
        return chosen[0].read

    path = remote.fetch(source, "dataset", select, environment)
    if path.is_dir():
        return (
            files.SourceFiles.in_directory(path, chosen[0]) if chosen else files.data_files(path, display_uri, wanted)
        )
    return files.single_file(path, display_uri, wanted)


def is_only_file(source: str, names: Sequence[str]) -> bool:
    """Whether `names` contains only the file that the URI itself names."""
    location = unquote(remote.display_uri(source)) if source.startswith("https://") else source
    return list(names) == [PurePosixPath(location).name]


def model_path(config: RunConfig, environment: Environment, stats: PreparedStats | None) -> Path:
    """Directory to load the model from, without a network: the download, a claim, or the plain path.

    Raises:
        StageError: the model does not exist, or its source cannot be read.
    """
    source = config.model.source
    if not is_downloaded(source):
        return _checked_model(local_path(source, config, environment), source)
    if stats is None or stats.model_snapshot is None:
        raise StageError(Reason.MODEL_NOT_FOUND, f"{source} has not been downloaded")
    return _checked_model(environment.cache / stats.model_snapshot, source)


def local_path(source: str, config: RunConfig, environment: Environment) -> Path:
    """The path of a `pvc://CLAIM/PATH` or plain-path source; its existence is not checked.

    A claim with the job's own name is the job's volume, which has its own mount path, unless it is mounted below the
    claims: the volume of a job on an existing claim is only a directory of it.

    Raises:
        StageError: the source cannot be parsed, or no claims are mounted.
    """
    if not source.startswith(PVC_SCHEME):
        if "://" in source:
            raise StageError(Reason.CONFIG_INVALID, f"{source} must be {', '.join(_FORMS)} or a path in the container")
        return Path(source)
    try:
        location = ClaimPath.parse(source)
    except ValueError as error:
        raise StageError(Reason.CONFIG_INVALID, str(error)) from error
    mounted = None if environment.claims is None else environment.claims / location.claim
    if location.claim == config.job.name and not (mounted and mounted.is_dir()):
        return environment.volume / location.path
    if mounted is None:
        raise StageError(
            Reason.CONFIG_INVALID, f"{source}: the claim {location.claim} is not mounted in this container"
        )
    return mounted / location.path


_FORMS: Final = (f"an {HUB_SCHEME}", PVC_SCHEME, *remote.SCHEMES)


def _part(source: DataSource, default_splits: tuple[str, ...]) -> DataPart:
    named = source.split
    return DataPart(source, default_splits) if named is None else DataPart(source, (named,), split_is_set=True)


def _checked_model(directory: Path, source: str) -> Path:
    if not directory.is_dir():
        problem = (
            f"{source} is a file, not a directory" if directory.exists() else missing_path_message(source, directory)
        )
        raise StageError(Reason.MODEL_NOT_FOUND, problem)
    check_readable([directory], source)
    if not (directory / "config.json").is_file():
        hint = ""
        if (directory / "adapter_config.json").is_file():
            hint = "; it is a LoRA adapter: merge it into its base model first"
        listed = list_content(directory)
        raise StageError(Reason.MODEL_NOT_FOUND, f"{source} has no config.json; it has {listed}{hint}")

    def read(name: str) -> bytes:
        return (directory / name).read_bytes()

    names = [file.name for file in directory.iterdir() if file.is_file()]
    weights = weight_files(names, read)
    if not weights:
        listed = list_content(directory)
        raise StageError(Reason.MODEL_NOT_FOUND, f"{source} has no weights (*.safetensors); it has {listed}")
    if absent := sorted(set(weights) - set(names)):
        raise StageError(
            Reason.MODEL_NOT_FOUND,
            f"{source} has no {absent[0]}, which the index of its weights names; it has {list_content(directory)}",
        )
    check_readable((directory / name for name in hub.model_files(names, read)), source)
    return directory

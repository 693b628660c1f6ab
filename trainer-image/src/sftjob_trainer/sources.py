"""Where models and data sets lie: hf://, pvc://, s3://, gs://, https:// and plain paths, resolved to local paths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote

from sftjob_contract.config import DataSource, RunConfig
from sftjob_contract.layout import HUB_SCHEME, PVC_SCHEME, ClaimPath
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer import files, hub, remote, splits
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.neighbours import content, is_missing
from sftjob_trainer.permissions import check_readable
from sftjob_trainer.weights import Read, weight_files

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


@dataclass(frozen=True)
class Part:
    """A part of the data and where it is read from: `splits` in order of preference.

    `asked`: the spec names the split; else a place without splits is read whole.
    """

    source: DataSource
    splits: tuple[str, ...]
    asked: bool = False

    @property
    def wanted(self) -> files.Wanted:
        """What to read of a folder."""
        return files.Wanted(splits=self.splits, subset=self.source.subset, asked=self.asked)


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
    """What to train on: of a repository on the hub, or a folder anywhere, the split train unless another is named."""
    return [_part(source, (splits.TRAIN,)) for source in config.dataset.sources]


def evaluation_parts(config: RunConfig) -> list[Part]:
    """What to evaluate on: nothing (rows of the training data are held out), a split of each source, or one of its own.

    One of its own has the format and columns of the first source.
    """
    held_out, first = config.dataset.evaluation, config.dataset.sources[0]
    if held_out.split is not None:
        wanted = (held_out.split,)
        return [Part(replace(part, max_samples=None), wanted, asked=True) for part in config.dataset.sources]
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
    return [_part(own, _TO_EVALUATE_ON)]


def resolve_part(part: Part, config: RunConfig, environment: Environment) -> files.Found:
    """The files of a part of the data, downloaded if they lie elsewhere.

    Raises:
        Failure: there are none, or we may not have them.
    """
    source = part.source.source
    if source.startswith(HUB_SCHEME):
        return hub.download_dataset(source, part.source.revision, environment, part.wanted)
    if remote.is_remote(source):
        return _fetched_part(source, part.wanted, environment)
    found = files.data_files(local_path(source, config, environment), source, part.wanted)
    if source.startswith(PVC_SCHEME):
        files.check_links((file.path for file in found.files), source)
    return found


def _fetched_part(source: str, wanted: files.Wanted, environment: Environment) -> files.Found:
    """A file, a folder or an archive of one from an object store or a web server."""
    shown = remote.shown(source)
    chosen: list[files.Names] = []

    def choose(names: Sequence[str], read: Read) -> Sequence[str]:
        if is_only_file(source, names):
            return files.data_names(names)
        files.check_no_unreadable(names, shown)
        try:
            chosen.append(files.choose_names(names, read, wanted))
        except splits.SplitError as error:
            raise files.no_split(shown, error) from error
        return chosen[0].read

    path = remote.fetch(source, "dataset", choose, environment)
    if path.is_dir():
        return files.Found.below(path, chosen[0]) if chosen else files.data_files(path, shown, wanted)
    return files.one_file(path, shown, wanted)


def is_only_file(source: str, names: Sequence[str]) -> bool:
    """Whether the only one of `names` at a URI is the file that it names itself."""
    place = unquote(remote.shown(source)) if source.startswith("https://") else source
    return list(names) == [PurePosixPath(place).name]


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


def _part(source: DataSource, usual: tuple[str, ...]) -> Part:
    named = source.split
    return Part(source, usual) if named is None else Part(source, (named,), asked=True)


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

"""Find the subsets and splits of a dataset repository by its card and file names, as `datasets` does. Pure.

Runs no code of the repository, and needs only its file names and the text of its README.md.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from sftjob_trainer.process.wording import one_of

CARD: Final = "README.md"
SPLITS_ON_DISK: Final = "dataset_dict.json"
"""Lists the splits of a tree written by `DatasetDict.save_to_disk`; each split is a folder."""
TRAIN: Final = "train"
_DEFAULT: Final = "default"
_FRONT_MATTER: Final = re.compile(r"\A(?:\ufeff)?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_SHARD: Final = re.compile(r"data/(?P<split>[^/]*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_KEYWORDS: Final = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SEPARATOR: Final = r"[-._ 0-9]"

Patterns = Mapping[str, tuple[str, ...]]
"""Globs of the files of each split."""


class SplitError(Exception):
    """The requested subset or split is not in the repository; the message lists the available ones."""


@dataclass(frozen=True, kw_only=True)
class Subset:
    """A subset (`datasets`: a configuration) from the card. Without `patterns`, its file names define the splits."""

    name: str
    directory: str
    patterns: Patterns | None
    is_default: bool


def splits_of(
    names: Sequence[str], card: str, subset: str | None, on_disk: str | None = None
) -> Mapping[str, Sequence[str]]:
    """The files of each split of a subset. `on_disk`: the SPLITS_ON_DISK file of a tree saved by `datasets`.

    Raises:
        SplitError: there is no such subset, or the card cannot be parsed.
    """
    if on_disk is not None and subset is None and (saved := _saved_splits(on_disk)):
        found = {split: [name for name in names if _is_below(name, PurePosixPath(split))] for split in saved}
        return {split: files for split, files in found.items() if files}
    return _splits(names, _chosen(declared_subsets(card), subset))


def first_split(
    known: Mapping[str, Sequence[str]], splits: Sequence[str], subset: str | None, names: Sequence[str] = ()
) -> str:
    """The first of `splits` that is among the `known` ones. `names` are all files, if their names define the splits.

    Raises:
        SplitError: none of them is.
    """
    wanted = next((split for split in splits if split in known), None)
    if wanted is not None:
        return wanted
    suffix = f" of subset {subset}" if subset is not None else ""
    raise SplitError(
        f"has no split {one_of(splits)}{suffix}; it has {', '.join(known) or 'no data files'}"
        f"{_unassigned_files_hint(known, names)}"
    )


def _unassigned_files_hint(known: Mapping[str, Sequence[str]], names: Sequence[str]) -> str:
    """Advice about data files that belong to no split, because others are named like one."""
    others = {name for files in known.values() for name in files}
    unassigned = [name for name in names if name not in others]
    if not unassigned or not known:
        return ""
    more = f" and {len(unassigned) - 1} more" if len(unassigned) > 1 else ""
    return f", and {unassigned[0]}{more} of no split: name such files like train.jsonl, or put them into a folder train"


def _saved_splits(text: str) -> Sequence[str]:
    try:
        found = json.loads(text)["splits"]
    except (ValueError, LookupError, TypeError):
        return ()
    return [str(name) for name in found] if isinstance(found, list) else ()


def declared_subsets(card: str) -> list[Subset]:
    """The `configs` in the YAML header of a README.md.

    Raises:
        SplitError: they do not have the form that the hub documents.
    """
    found = _FRONT_MATTER.match(card)
    try:
        head = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        raise SplitError(f"has a {CARD} whose head is not valid YAML") from error
    entries = head.get("configs") if isinstance(head, dict) else None
    try:
        return [_declared(entry) for entry in entries or ()]
    except (TypeError, KeyError, AttributeError) as error:
        raise SplitError(f"has a {CARD} whose configs cannot be understood; name a file in source") from error


def splits_by_name(names: Sequence[str]) -> dict[str, list[str]]:
    """The splits from file names: shards in `data/`, else folders named like a split, else files, else one split."""
    shards = _grouped(names, lambda name: found["split"] if (found := _SHARD.fullmatch(name)) else None)
    if shards:
        return {split: shards[split] for split in sorted(shards, key=_split_order)}
    for part in (_folder_names, _file_name):
        found = {
            split: [name for name in names if _has_keyword(part(name), keywords)]
            for split, keywords in _KEYWORDS.items()
        }
        if any(found.values()):
            return {split: files for split, files in found.items() if files}
    return {TRAIN: list(names)} if names else {}


def _chosen(subsets: Sequence[Subset], wanted: str | None) -> Subset:
    if not subsets:
        subsets = [Subset(name=_DEFAULT, directory="", patterns=None, is_default=True)]
    known = ", ".join(subset.name for subset in subsets)
    if wanted is not None:
        found = next((subset for subset in subsets if subset.name == wanted), None)
        if found is None:
            raise SplitError(f"has no subset {wanted}; it has {known}")
        return found
    defaults = [subset for subset in subsets if subset.is_default or len(subsets) == 1]
    if len(defaults) != 1:
        raise SplitError(f"has several subsets, {known}; set dataset.subset to one of them")
    return defaults[0]


def _splits(names: Sequence[str], subset: Subset) -> dict[str, list[str]]:
    root = PurePosixPath(subset.directory)
    inside = {str(PurePosixPath(name).relative_to(root)): name for name in names if _is_below(name, root)}
    if subset.patterns is None:
        found = splits_by_name(list(inside))
    else:
        matched = {split: _matching(inside, globs) for split, globs in subset.patterns.items()}
        found = {split: files for split, files in matched.items() if files}
    return {split: [inside[name] for name in files] for split, files in found.items()}


def _is_below(name: str, root: PurePosixPath) -> bool:
    return PurePosixPath(name).is_relative_to(root)


def _matching(names: Iterable[str], globs: Sequence[str]) -> list[str]:
    from fsspec.utils import glob_translate  # type: ignore[import-untyped]

    expressions = [re.compile(glob_translate(glob.removeprefix("./"))) for glob in globs]
    return [name for name in names if any(expression.match(name) for expression in expressions)]


def _declared(entry: Mapping[str, Any]) -> Subset:
    name, files = str(entry["config_name"]), entry.get("data_files")
    return Subset(
        name=name,
        directory=str(entry.get("data_dir") or ""),
        patterns=None if files is None else _patterns(files),
        is_default=name == _DEFAULT or bool(entry.get("default")),
    )


def _patterns(files: Any) -> Patterns:
    """`data_files` of the card: a glob, a list of globs (both: the split train), or a list of {split, path}."""
    if isinstance(files, list) and any(isinstance(item, dict) for item in files):
        return {str(item["split"]): _globs(item["path"]) for item in files}
    return {TRAIN: _globs(files)}


def _globs(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise TypeError(value)


def _grouped(names: Iterable[str], split_of: Callable[[str], str | None]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        if (split := split_of(name)) is not None:
            groups.setdefault(split, []).append(name)
    return groups


def _split_order(split: str) -> tuple[int, str]:
    order = list(_KEYWORDS)
    return (order.index(split) if split in order else len(order), split)


def _folder_names(name: str) -> Sequence[str]:
    return PurePosixPath(name).parts[:-1]


def _file_name(name: str) -> Sequence[str]:
    """The file's name, in which the keyword is always followed by something."""
    return (PurePosixPath(name).name,)


def _has_keyword(parts: Sequence[str], keywords: Sequence[str]) -> bool:
    """Whether one of `parts` contains one of `keywords` as a separate word; unlike in `datasets`, also in capitals."""
    expression = re.compile(rf"(.*{_SEPARATOR})?({'|'.join(keywords)})({_SEPARATOR}.*)?", re.DOTALL | re.IGNORECASE)
    return any(expression.fullmatch(part) for part in parts)

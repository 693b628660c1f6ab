"""A container's private directory tree, and the rewriting of paths into it.

There are no mount namespaces here, so a volume cannot appear at its mountPath. Instead each container has a directory
tree in which a link stands at every mountPath, and every path that the Pod's spec hands to the container (environment,
command, arguments, working directory) is rewritten to the place in that tree. What a program has built in, or reads
from a file, is not rewritten: a program that is to run here takes its paths from its environment or arguments.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sftjob_sandbox.node.containers.volumes import MountError

# A path ends or begins a word at the ends of the text, at blanks, and at the punctuation of lists, assignments and
# shell scripts. After a slash, a closing brace or a letter it is the tail of something else: a URL, "${X}/data".
_BEFORE = r"(?<![^\s:,=;<>|&(\"'`\[{])"
_AFTER = r"(?=$|[/\s:,;<>|&)\"'`\]}*?])"
_WHOLE = r"(?=$|/?(?:$|[\s:,;<>|&)\"'`\]}]))"


class PathMap:
    """Rewrites the paths of one container into its tree."""

    def __init__(self, tree: Path, mount_paths: Iterable[str], files: Iterable[str] = ()) -> None:
        self._tree = tree
        mounts = sorted({_clean(path) for path in mount_paths}, key=len, reverse=True)
        parents = {str(PurePosixPath(path).parent) for path in mounts} - {"/", *mounts}
        below = "|".join(re.escape(path) for path in mounts)
        exact = "|".join(re.escape(path) for path in sorted({*parents, *map(_clean, files)}, key=len, reverse=True))
        arms = [f"(?:{below}){_AFTER}"] if below else []
        arms += [f"(?:{exact}){_WHOLE}"] if exact else []
        self._pattern = re.compile(f"{_BEFORE}(?:{'|'.join(arms)})") if arms else None

    def rewrite(self, text: str) -> str:
        """`text` with every path that is a mount, is below one or is its parent directory moved into the tree."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: f"{self._tree}{found[0]}", text)

    def locate(self, path: str) -> Path:
        """Place of an absolute path of the container in the tree."""
        return self._tree / _clean(path).lstrip("/")


def build_tree(tree: Path, container: Mapping[str, Any], directories: Mapping[str, Path]) -> None:
    """Create the tree with a link for each of the container's mounts; `directories` are the volumes by name.

    Raises MountError: a subPath leaves its volume, or a mountPath collides with another.
    """
    tree.mkdir(parents=True, exist_ok=True)
    for mount in container.get("volumeMounts") or ():
        target = _target(mount, directories[mount["name"]], container["name"])
        link = tree / _clean(mount["mountPath"]).lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target)


def _target(mount: Mapping[str, Any], volume: Path, container: str) -> Path:
    sub_path: str | None = mount.get("subPath")
    if not sub_path:
        return volume.resolve()
    target = (volume / sub_path).resolve()
    if not target.is_relative_to(volume.resolve()) or ".." in PurePosixPath(sub_path).parts:
        name = mount["name"]
        raise MountError(f'failed to prepare subPath for volumeMount "{name}" of container "{container}"')
    if not target.exists():
        target.mkdir(parents=True)
    return volume.resolve() / sub_path


def _clean(path: str) -> str:
    return str(PurePosixPath(path))

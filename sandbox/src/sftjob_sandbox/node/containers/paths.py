"""Where the node keeps its files. `<data>/volumes/<namespace>/<claim>` outlives Pods; `<data>/pods/<pod>` does not.

A Pod's directory holds `<container>.log`, `<container>/root` (the container's private
tree) and `_volumes/<name>`. Container names have no dot and no underscore, so nothing collides.
"""

from dataclasses import dataclass
from pathlib import Path

from sftjob_sandbox.apimachinery.objects import Object, name_of, namespace_of, uid_of


def pods_directory(data: Path) -> Path:
    """Parent of all Pods' directories."""
    return data / "pods"


def claim_directory(data: Path, namespace: str, claim: str) -> Path:
    """The volume behind a PersistentVolumeClaim."""
    return data / "volumes" / namespace / claim


def existing_claims(data: Path) -> list[str]:
    """`namespace/claim` of every volume that an earlier run left behind."""
    return sorted(f"{path.parent.name}/{path.name}" for path in (data / "volumes").glob("*/*") if path.is_dir())


@dataclass(frozen=True)
class PodPaths:
    """One Pod's directory."""

    root: Path

    @classmethod
    def of(cls, data: Path, pod: Object) -> "PodPaths":
        """Directory of `pod` below the node's data directory."""
        return cls(pods_directory(data) / f"{namespace_of(pod)}_{name_of(pod)}_{uid_of(pod)}")

    @property
    def volumes(self) -> Path:
        """Volumes that live and die with the Pod."""
        return self.root / "_volumes"

    def container(self, name: str) -> Path:
        """What belongs to one container."""
        return self.root / name

    def tree(self, name: str) -> Path:
        """A container's private directory tree, with a link for each mount."""
        return self.container(name) / "root"

    def log(self, name: str) -> Path:
        """A container's log."""
        return self.root / f"{name}.log"

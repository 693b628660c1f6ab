"""The images that the node has: references, each with the directory whose programs the image holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """An image that is there."""

    directory: Path

    @property
    def image_id(self) -> str:
        """What stands in for a digest."""
        return f"sandbox://{self.directory}"

    @property
    def search_path(self) -> str:
        """PATH of its containers."""
        return f"{self.directory}:{_SYSTEM_PATH}"


def find_image(images: Mapping[str, Path], reference: str) -> Image | None:
    """The image, where a missing tag means `latest`."""
    table = {with_tag(known): directory for known, directory in images.items()}
    directory = table.get(with_tag(reference))
    return Image(directory) if directory else None


def pull_error(images: Mapping[str, Path], reference: str) -> str:
    """Why pulling fails, and what to do about it."""
    known = ", ".join(sorted(images)) or "none"
    return (
        f'the sandbox has no registry and no image "{reference}" (it has: {known}); '
        f"start it with --image {reference}=DIRECTORY to run the programs of DIRECTORY under this name"
    )


def with_tag(reference: str) -> str:
    """`reference` with the default tag if it has neither tag nor digest."""
    name = reference.rsplit("/", 1)[-1]
    return reference if ":" in name or "@" in name else f"{reference}:latest"

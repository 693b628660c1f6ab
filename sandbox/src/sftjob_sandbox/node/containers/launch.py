"""From a container's spec to its command and its files on disk, and its termination message."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sftjob_sandbox.apimachinery import quantity
from sftjob_sandbox.apimachinery.objects import name_of, namespace_of
from sftjob_sandbox.node.containers.environment import PodContext, command_line, container_environment
from sftjob_sandbox.node.containers.logs import last_output
from sftjob_sandbox.node.containers.mounts import PathMap, build_tree
from sftjob_sandbox.node.containers.paths import PodPaths
from sftjob_sandbox.node.containers.process import Command, Exit

MESSAGE_BYTES: Final = 4096
_DEFAULT_MESSAGE_PATH: Final = "/dev/termination-log"


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


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a container gets besides its spec. `volumes` are the Pod's by name."""

    context: PodContext
    paths: PodPaths
    volumes: Mapping[str, Path]
    image: Image
    visible_devices: str
    poll_seconds: float


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A container that is ready to start."""

    command: Command
    message_file: Path
    log: Path


def prepare(spec: Mapping[str, Any], around: Surroundings) -> Launch:
    """Make the container's tree and its command.

    Raises ConfigError: an object that the environment refers to is missing. MountError: a mount cannot be made.
    """
    pod, name = around.context.pod, spec["name"]
    tree = around.paths.tree(name)
    environment = container_environment(around.context, spec)
    build_tree(tree, spec, around.volumes)
    message_path = spec.get("terminationMessagePath") or _DEFAULT_MESSAGE_PATH
    mounts = [mount["mountPath"] for mount in spec.get("volumeMounts") or ()]
    places = PathMap(tree, mounts, files=[message_path])
    own = {
        "PATH": around.image.search_path,
        "HOME": str(tree),
        "HOSTNAME": pod["spec"].get("hostname") or name_of(pod),
        "CUDA_VISIBLE_DEVICES": around.visible_devices,
    }
    cwd = places.locate(spec.get("workingDir") or "/")
    cwd.mkdir(parents=True, exist_ok=True)
    command = Command(
        argv=[places.rewrite(word) for word in command_line(spec, environment)],
        env=own | {key: places.rewrite(value) for key, value in environment.items()},
        cwd=cwd,
        memory_limit_bytes=_memory_limit_bytes(spec),
        poll_seconds=around.poll_seconds,
        label=f"{namespace_of(pod)}/{name_of(pod)}/{name}",
    )
    message_file = places.locate(message_path)
    message_file.parent.mkdir(parents=True, exist_ok=True)
    message_file.write_bytes(b"")
    return Launch(command=command, message_file=message_file, log=around.paths.log(name))


def termination_message(spec: Mapping[str, Any], launch: Launch, ended: Exit) -> str:
    """The last bytes of the container's message file, or of its log if the policy allows it."""
    message = ""
    if launch.message_file.is_file():
        message = launch.message_file.read_bytes()[-MESSAGE_BYTES:].decode(errors="replace")
    fall_back = spec.get("terminationMessagePolicy") == "FallbackToLogsOnError" and ended.code != 0
    return last_output(launch.log) if fall_back and not message else message


def _memory_limit_bytes(spec: Mapping[str, Any]) -> int | None:
    limit = ((spec.get("resources") or {}).get("limits") or {}).get("memory")
    return int(quantity.parse(limit).value) if limit else None

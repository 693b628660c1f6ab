"""From a container's spec to the command that runs it, its files on disk, and what it left when it ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.node.container import Command, Exit
from sftjob_sandbox.node.environment import PodContext, command_line, container_environment
from sftjob_sandbox.node.images import Image
from sftjob_sandbox.node.logs import last_output
from sftjob_sandbox.node.mounts import PathMap, build_tree
from sftjob_sandbox.node.paths import PodPaths
from sftjob_sandbox.objects import name_of, namespace_of

MESSAGE_BYTES: Final = 4096
_DEFAULT_MESSAGE_PATH: Final = "/dev/termination-log"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a container is given besides its spec. `volumes` are the Pod's by name."""

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
    places: PathMap
    message_file: Path
    log: Path


def prepare(spec: Mapping[str, Any], around: Surroundings) -> Launch:
    """Make the container's tree and its command; the log of the run before is kept as the previous one.

    Raises:
        ConfigError: an object that the environment refers to is missing.
        MountError: a mount can not be made.
    """
    pod, name = around.context.pod, spec["name"]
    tree = around.paths.tree(name)
    environment = container_environment(around.context, spec)
    build_tree(tree, spec, around.volumes, environment)
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
    log = _fresh_log(around.paths, name)
    return Launch(command=command, places=places, message_file=message_file, log=log)


def termination_message(spec: Mapping[str, Any], launch: Launch, ended: Exit) -> str:
    """What the container said at its end: the last bytes of its message file, or of its log if the policy says so."""
    message = ""
    if launch.message_file.is_file():
        message = launch.message_file.read_bytes()[-MESSAGE_BYTES:].decode(errors="replace")
    fall_back = spec.get("terminationMessagePolicy") == "FallbackToLogsOnError" and ended.code != 0
    return last_output(launch.log) if fall_back and not message else message


def _fresh_log(paths: PodPaths, container: str) -> Path:
    log = paths.log(container)
    if log.exists():
        log.replace(paths.log(container, previous=True))
    return log


def _memory_limit_bytes(spec: Mapping[str, Any]) -> int | None:
    limit = ((spec.get("resources") or {}).get("limits") or {}).get("memory")
    return int(quantity.parse(limit).value) if limit else None

"""Images built and run with the buildah and podman of this machine."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools import images

CONFIGURATION: Final = Path(__file__).resolve().with_name("containers.conf")
BASE: Final = "localhost/sftjob-test/base:bookworm"
PROGRAMS: Final = ("buildah", "podman", "runc", "mmdebstrap")
CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
REGISTRIES: Final = ("localhost/sftjob-test", "localhost/sftjob-test-again")
"""What comes before the names of the first and the second build."""
CUDA_REGISTRY: Final = "localhost/sftjob-test-cuda"
REVISION: Final = "0123456789abcdef0123456789abcdef01234567"
EPOCH: Final = "1700000000"
LIMIT_SECONDS: Final = 1200
USER: Final = 65532
RESTRICTED: Final = (
    *("--rm", "--pull", "never", "--network", "none", "--read-only", "--tmpfs", "/tmp"),
    *("--user", str(USER), "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
"""What a Pod of the restricted standard gets, and no network either."""


def obstacle() -> str | None:
    """Why no image can be built and run on this machine."""
    if os.geteuid() != 0:
        return "building a base and running containers here takes root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}; `make image-tools` installs them on Debian" if absent else None


class Containers:
    """buildah and podman as they work everywhere: without systemd and without namespaces of their own for a build."""

    def __init__(self) -> None:
        self.environ = {**os.environ, "CONTAINERS_CONF": str(CONFIGURATION), "BUILDAH_ISOLATION": "chroot"}

    def call(self, *command: str) -> str:
        """Run a command that must succeed; its output."""
        ended = self.attempt(*command)
        assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
        return ended.stdout

    def attempt(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command that may fail."""
        return subprocess.run(
            command,
            check=False,
            cwd=images.ROOT,
            env=self.environ,
            text=True,
            capture_output=True,
            timeout=LIMIT_SECONDS,
        )

    def run(self, image: str, *arguments: str, options: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        """Run `image` with all that can be taken away from it taken away."""
        return self.attempt("podman", "run", *RESTRICTED, *options, image, *arguments)

    def shell(self, image: str, script: str) -> str:
        """What a shell in `image` says."""
        return self.call("podman", "run", *RESTRICTED, "--entrypoint", "sh", image, "-c", script)

    def build(self, image: str, wheels: Path, registry: str) -> str:
        """Build one image on BASE with the packages in `wheels`; its name."""
        options = images.Options(base=BASE, wheels=wheels, torch_index_url=CPU_INDEX, registry=registry)
        self.call(*images.command("buildah", image, options, (REVISION, EPOCH)))
        return images.image_name(image, registry)

    def build_for_cuda(self, like_cpu: str) -> str:
        """Build the last stage of the trainer's image, which needs no package, on the image `like_cpu`; its name."""
        options = images.Options(device="cuda", registry=CUDA_REGISTRY)
        builder, verb, *rest = images.command("buildah", "trainer", options, (REVISION, EPOCH))
        self.call(builder, verb, "--build-context", f"cpu=container-image://{like_cpu}", *rest)
        return images.image_name("trainer", CUDA_REGISTRY)

    def image_id(self, name: str) -> str:
        """ID of an image: the digest of its configuration, which names its layers by digest."""
        return self.call("podman", "image", "inspect", "--format", "{{.Id}}", name).strip()

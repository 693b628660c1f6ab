"""The real kubectl, pointed at one kubeconfig and kept away from the user's home."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kubectl:
    """`kubectl` with a kubeconfig; `cache` is its discovery cache, a fresh directory for each server."""

    kubeconfig: Path
    cache: Path
    options: tuple[str, ...] = ()

    def within(self, namespace: str) -> "Kubectl":
        """The same in a namespace."""
        return Kubectl(self.kubeconfig, self.cache, (f"--namespace={namespace}",))

    def run(self, *arguments: str, text: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run to the end, whatever the exit status; `text` goes to standard input."""
        return subprocess.run(
            self.command(*arguments), input=text, capture_output=True, text=True, timeout=timeout, check=False
        )

    def __call__(self, *arguments: str, text: str | None = None, timeout: float = 60) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*arguments, text=text, timeout=timeout)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Parsed output of a command with `-o json`."""
        return json.loads(self(*arguments, "-o", "json"))

    def command(self, *arguments: str) -> list[str]:
        """The argument list, for callers that need a process of their own (`-w`, `-f`)."""
        program = shutil.which("kubectl", path=os.environ["PATH"])
        assert program is not None, "these tests need kubectl on the PATH"
        return [program, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.cache}", *self.options, *arguments]
